//! Tables of what is chosen, and of what is said when nothing can be.

use super::*;
use crate::gpu::Holder;
use crate::gpu::chosen::testing::{equal, gpu, machine, mig, uuid};

fn holder(run: &str, indices: &[u32]) -> Holder {
    Holder {
        run: run.parse().unwrap(),
        store: "/var/lib/dockless".into(),
        id: format!("{run}-0"),
        uuids: indices.iter().map(|index| uuid(*index)).collect(),
        shared: false,
        waiting: false,
        since: "2024-05-01T12:00:00Z".to_owned(),
    }
}

fn taken(run: &str, indices: &[u32], blocks: bool) -> Vec<Taken> {
    let taken = |index: &u32| Taken { uuid: uuid(*index), by: Some(holder(run, indices)), blocks };
    indices.iter().map(taken).collect()
}

fn labels(chosen: &[Chosen]) -> Vec<String> {
    let label = |chosen: &Chosen| match chosen {
        Chosen::Gpu(gpu) => gpu.index.to_string(),
        Chosen::Mig { gpu, device } => format!("{}:{}", gpu.index, device.index),
    };
    chosen.iter().map(label).collect()
}

fn chosen(request: &str, here: &Inventory, taken: &[Taken]) -> Vec<String> {
    select(&request.parse().unwrap(), here, &Grant::everything(), taken).map_or_else(|_| Vec::new(), |it| labels(&it))
}

fn refused(request: &str, here: &Inventory, grant: &Grant, taken: &[Taken]) -> SelectError {
    select(&request.parse().unwrap(), here, grant, taken).unwrap_err()
}

/// Two T4 around two A100 of 40 GB and one of 80 GB.
fn mixed() -> Inventory {
    machine(vec![
        gpu(0, "Tesla T4", 15360),
        gpu(1, "NVIDIA A100-SXM4-40GB", 40960),
        gpu(2, "NVIDIA A100-SXM4-80GB", 81920),
        gpu(3, "NVIDIA A100-SXM4-40GB", 40960),
        gpu(4, "Tesla T4", 15360),
    ])
}

#[test]
fn what_is_asked_for_is_chosen() {
    let here = mixed();
    for (request, expected) in [
        ("none", &[][..]),
        ("all", &["0", "1", "2", "3", "4"]),
        ("1", &["0"]),
        ("2", &["0", "4"]),
        ("3", &["0", "1", "4"]),
        ("5", &["0", "1", "2", "3", "4"]),
        ("6", &[]),
        ("name=A100", &["1"]),
        ("name=A100,count=2", &["1", "3"]),
        ("name=A100,count=3", &["1", "2", "3"]),
        ("name=A100,count=4", &[]),
        ("name=A100,count=all", &["1", "2", "3"]),
        ("name=A100,memory=80GB", &["2"]),
        ("name=A100-40GB,count=2", &["1", "3"]),
        ("name=A100,memory=80GB,count=2", &[]),
        ("memory=16GB", &["0"]),
        ("memory=17GB", &["1"]),
        ("memory=16GiB,count=2", &["0", "4"]),
        ("memory=41GB", &["2"]),
        ("name=T4,memory=24GB", &[]),
        ("device=3,0", &["0", "3"]),
        ("device=0,0", &["0"]),
        ("device=GPU-02", &["2"]),
        ("device=0000:11:00.0", &["1"]),
        ("mig=1g.5gb", &[]),
    ] {
        assert_eq!(chosen(request, &here, &[]), expected, "{request}");
    }
}

#[test]
fn what_others_hold_is_left_to_them() {
    let here = equal(4);
    let others = taken("calm-fox-1", &[0, 2], true);
    for (request, expected) in [
        ("1", &["1"][..]),
        ("2", &["1", "3"]),
        ("3", &[]),
        ("all", &[]),
        ("device=1", &["1"]),
        ("device=0", &[]),
        ("device=0,1", &[]),
        ("name=A100,count=2", &["1", "3"]),
    ] {
        assert_eq!(chosen(request, &here, &others), expected, "{request}");
    }
}

#[test]
fn sharing_runs_spread() {
    let here = equal(3);
    let mut others = taken("one", &[0], false);
    assert_eq!(chosen("1", &here, &others), ["1"]);
    others.extend(taken("two", &[1, 2], false));
    others.extend(taken("three", &[0], false));
    assert_eq!(chosen("1", &here, &others), ["1"]);
    assert_eq!(chosen("2", &here, &others), ["1", "2"]);
    assert_eq!(chosen("all", &here, &others), ["0", "1", "2"]);
}

#[test]
fn one_model_is_not_worth_two_sharers() {
    let here = machine(vec![gpu(0, "Tesla T4", 15360), gpu(1, "NVIDIA L4", 23034)]);
    assert_eq!(chosen("1", &here, &taken("one", &[0], false)), ["1"]);
}

#[test]
fn partitioned_gpus_are_given_by_their_parts() {
    let here =
        machine(vec![mig(0, &["1g.5gb", "3g.20gb", "1g.5gb"]), gpu(1, "NVIDIA A100-SXM4-40GB", 40960), mig(2, &[])]);
    for (request, expected) in [
        ("all", &["0:0", "0:1", "0:2", "1"][..]),
        ("1", &["1"]),
        ("2", &["0:0", "0:2"]),
        ("4", &["0:0", "0:1", "0:2", "1"]),
        ("device=0", &["0:0", "0:1", "0:2"]),
        ("device=0:1", &["0:1"]),
        ("device=MIG-0002", &["0:2"]),
        ("device=2", &[]),
        ("mig=1g.5gb", &["0:0"]),
        ("mig=1g.5gb,count=2", &["0:0", "0:2"]),
        ("mig=1g.5gb,count=all", &["0:0", "0:2"]),
        ("mig=2g.10gb", &[]),
        ("mig=3g.20gb,name=A100", &["0:1"]),
        ("mig=3g.20gb,name=H100", &[]),
        ("name=A100,count=2", &[]),
        ("name=A100,count=1", &["1"]),
        ("name=A100,memory=20GB,count=2", &["0:1", "1"]),
        ("name=A100-40GB,count=all", &["0:0", "0:1", "0:2", "1"]),
    ] {
        assert_eq!(chosen(request, &here, &[]), expected, "{request}");
    }
    let message = refused("device=2", &here, &Grant::everything(), &[]).to_string();
    assert!(
        message.contains("GPU 2 `NVIDIA A100-SXM4-40GB` (40 GB): MIG is on and it has no MIG devices"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_used_or_is_not_granted_is_no_part_of_all() {
    let mut here = equal(3);
    here.gpus[0].unusable = Some("`/dev/nvidia0` cannot be opened".to_owned());
    let grant = Grant::from_variables([("CUDA_VISIBLE_DEVICES", uuid(2).as_str())].map(|(name, uuid)| (name, uuid)));
    let all = select(&GpuRequest::all(), &here, &grant, &[]).unwrap();
    assert_eq!(labels(&all), ["2"]);
    let error = refused("2", &here, &grant, &[]);
    assert!(!error.can_come_free());
    assert_eq!(
        error.to_string(),
        format!(
            "asked for 2 GPUs, and only 1 can be had\n  \
             GPU 0 `NVIDIA A100-SXM4-40GB` (40 GB): cannot be used: `/dev/nvidia0` cannot be opened\n  \
             GPU 1 `NVIDIA A100-SXM4-40GB` (40 GB): not granted by `CUDA_VISIBLE_DEVICES={}`\n  \
             GPU 2 `NVIDIA A100-SXM4-40GB` (40 GB): would do\n\
             hint: `dockless gpu list` shows what can be asked for",
            uuid(2)
        )
    );
    let nothing = Grant::from_variables([("CUDA_VISIBLE_DEVICES", "")]);
    assert!(refused("all", &here, &nothing, &[]).to_string().starts_with("asked for all GPUs, and none can be had\n"));
}

#[test]
fn each_gpu_says_why_it_will_not_do() {
    let here = mixed();
    let mut others = taken("calm-fox-1", &[3], true);
    others.push(Taken { uuid: uuid(2), by: None, blocks: true });
    let error = refused("name=A100,memory=40GB,count=2", &here, &Grant::everything(), &others);
    assert!(error.can_come_free());
    assert_eq!(
        error.to_string(),
        "asked for 2 × A100 with 40 GB, and only 1 can be had\n  \
         GPU 0 `Tesla T4` (16 GB): another model\n  \
         GPU 1 `NVIDIA A100-SXM4-40GB` (40 GB): would do\n  \
         GPU 2 `NVIDIA A100-SXM4-80GB` (80 GB): held by a process that left no note\n  \
         GPU 3 `NVIDIA A100-SXM4-40GB` (40 GB): held by run `calm-fox-1` of store `/var/lib/dockless` since 2024-05-01T12:00:00Z\n  \
         GPU 4 `Tesla T4` (16 GB): another model\n\
         hint: wait for other runs with `--gpu-wait`; `--gpus-shared` shares GPUs with runs that do so too"
    );
    let error = refused("memory=100GB", &here, &Grant::everything(), &others);
    assert!(!error.can_come_free(), "waiting makes no card larger");
    assert!(error.to_string().contains("GPU 2 `NVIDIA A100-SXM4-80GB` (80 GB): too little memory"), "{error}");
    let unknown = machine(vec![gpu(0, "Tesla T4", 0)]);
    let message = refused("memory=16GB", &unknown, &Grant::everything(), &[]).to_string();
    assert!(message.contains("GPU 0 `Tesla T4`: its memory is not known"), "{message}");
}

#[test]
fn what_is_missing_is_said() {
    let grant = Grant::everything();
    let none = Inventory { notes: vec!["`/proc/driver/nvidia` is missing".to_owned()], ..Inventory::default() };
    let message = refused("1", &none, &grant, &[]).to_string();
    assert!(
        message
            .starts_with("asked for 1 GPU, and no NVIDIA driver runs here\n  `/proc/driver/nvidia` is missing\nhint: "),
        "{message}"
    );
    assert_eq!(
        select(&GpuRequest::none(), &none, &grant, &[]),
        Ok(Vec::new()),
        "nothing is there without a driver too"
    );
    let message = refused("1", &machine(Vec::new()), &grant, &[]).to_string();
    assert!(
        message.starts_with("asked for 1 GPU, and the NVIDIA driver `570.86.10` drives no GPU here\nhint: "),
        "{message}"
    );
    let message = refused("device=0,7", &equal(2), &grant, &[]).to_string();
    assert!(message.starts_with("there is no GPU `7`, this machine has\n  GPU 0 `NVIDIA A100"), "{message}");
    let message = refused("device=GPU-0", &equal(2), &grant, &[]).to_string();
    assert!(message.starts_with("`GPU-0` is the beginning of more than one UUID\nhint: "), "{message}");
}

proptest::proptest! {
    /// Whatever is asked for: what is chosen is there once, free, and as much as was asked for.
    #[test]
    fn chosen_is_free_and_enough(
        models in proptest::collection::vec(0_usize..3, 1..8),
        held in proptest::collection::vec(proptest::bool::ANY, 8),
        count in 1_u32..6,
        name in proptest::bool::ANY,
    ) {
        const MODELS: [(&str, u64); 3] = [("Tesla T4", 15360), ("NVIDIA A100-SXM4-40GB", 40960), ("NVIDIA A10", 23028)];
        let gpus = (0..).zip(&models).map(|(index, model)| gpu(index, MODELS[*model].0, MODELS[*model].1)).collect();
        let here = machine(gpus);
        let indices: Vec<u32> = (0..).zip(&held).filter(|(_, held)| **held).map(|(index, _)| index).collect();
        let others = taken("other", &indices, true);
        let request = if name { format!("name=T4,count={count}") } else { count.to_string() };
        let fits = |index: &u32| !indices.contains(index) && (!name || models[*index as usize] == 0);
        let fitting = (0..u32::try_from(models.len()).unwrap()).filter(fits).count();
        let found = select(&request.parse().unwrap(), &here, &Grant::everything(), &others);
        match found {
            Ok(chosen) => {
                proptest::prop_assert_eq!(chosen.len(), count as usize);
                proptest::prop_assert!(chosen.windows(2).all(|pair| pair[0].gpu().pci < pair[1].gpu().pci));
                proptest::prop_assert!(chosen.iter().all(|chosen| fits(&chosen.gpu().index)));
                let same = |model: usize| (0..).zip(&models).filter(|(index, it)| fits(index) && **it == model).count();
                let one_model_has_enough = (0..3).any(|model| same(model) >= count as usize);
                let is_one_model = chosen.iter().all(|one| one.gpu().model == chosen[0].gpu().model);
                proptest::prop_assert!(is_one_model || !one_model_has_enough);
            }
            Err(_) => proptest::prop_assert!(fitting < count as usize),
        }
    }
}
