//! All that is wrong in the workflow files of a project, not only the first of it. Does no I/O.
//!
//! A file whose YAML is broken gives one mistake; else a wrong workflow does not hide those after it, nor a wrong key of
//! a workflow the others. What parses is then planned, which finds what no key alone shows: a missing image, artifacts
//! inside of each other. Of what workflows need from each other nothing is said until all of them parse.
//!
//! What the caller's variables and secrets will be is not known here, so values that hold `${{ … }}` are tried with several
//! stand-ins, and a mistake counts when it is there with each of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::discriminant;

use serde::Serialize;

use super::deps;
use super::file::{self, Workflow};
use super::interpolate::{Values, resolve};
use super::mistake::Mistake;
use super::plan::plan;
use super::source::Span;

/// Most mistakes that are told; after so many, nobody reads on.
pub const MAX_MISTAKES: usize = 1000;

/// What may stand for the n-th variable: a number, a path, a version, the one provider.
const STAND_INS: [fn(usize) -> String; 4] =
    [|n| (n + 1).to_string(), |n| format!("/stand-in-{n}"), |_| "3.10".to_owned(), |_| "docker".to_owned()];

/// Takes the files of a project one after the other.
#[derive(Debug, Default)]
pub struct Checker {
    files: Vec<String>,
    workflows: Vec<Workflow>,
    places: HashMap<String, (String, Span)>,
    mistakes: Vec<Mistake>,
    /// How many workflows have no mistake.
    good: usize,
    /// Whether workflows are missing that did not parse.
    incomplete: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// How many workflows have no mistake.
    pub good: usize,
    /// What is wrong, by file and place; [`MAX_MISTAKES`] at most.
    pub mistakes: Vec<Mistake>,
}

/// One mistake as `workflow check --format json` tells it. Lines and columns count from 1.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    /// The file.
    pub file: &'a str,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
    /// What to try.
    pub hint: Option<&'a str>,
}

impl Checker {
    /// Looks at one more file. `name` is how messages call it.
    pub fn file(&mut self, name: &str, bytes: &[u8]) {
        let wanted = MAX_MISTAKES.saturating_sub(self.mistakes.len());
        if wanted == 0 {
            return;
        }
        self.files.push(name.to_owned());
        match file::parse_on(name, bytes, wanted) {
            Ok(parsed) => {
                self.incomplete |= !parsed.mistakes.is_empty();
                self.mistakes.extend(parsed.mistakes);
                for workflow in parsed.file.workflows {
                    let mistake = self.workflow(workflow);
                    self.mistakes.extend(mistake);
                }
            }
            Err(mistake) => {
                self.incomplete = true;
                self.mistakes.push(mistake);
            }
        }
    }

    /// Keeps a workflow, or says what is wrong with it.
    fn workflow(&mut self, workflow: Workflow) -> Option<Mistake> {
        if let Some((file, place)) = self.places.get(&workflow.name.value) {
            return Some(file::duplicate_name(&workflow, file, *place));
        }
        let place = (workflow.source.name().to_owned(), workflow.name.span);
        self.places.insert(workflow.name.value.clone(), place);
        let mistake = planned(&workflow).err();
        self.good += usize::from(mistake.is_none());
        self.workflows.push(workflow);
        mistake
    }

    /// What was found in all of them.
    #[must_use]
    pub fn finish(self) -> Report {
        let Self { files, workflows, mut mistakes, good, incomplete, .. } = self;
        if !incomplete {
            mistakes.extend(deps::check_all(&workflows));
        }
        let order: HashMap<&str, usize> =
            files.iter().enumerate().map(|(index, file)| (file.as_str(), index)).collect();
        mistakes.sort_by_key(|it| (order.get(it.file()), it.span().line, it.span().column));
        mistakes.truncate(MAX_MISTAKES);
        Report { good, mistakes }
    }
}

/// Plans a workflow whatever its variables will be.
fn planned(workflow: &Workflow) -> Result<(), Mistake> {
    let [most_likely, others @ ..] = STAND_INS;
    let Err(first) = planned_with(workflow, most_likely) else { return Ok(()) };
    let depends_on_variables = others.into_iter().any(|stand_in| match planned_with(workflow, stand_in) {
        Ok(()) => true,
        Err(other) => other.span() != first.span() || discriminant(other.problem()) != discriminant(first.problem()),
    });
    if depends_on_variables { Ok(()) } else { Err(first) }
}

fn planned_with(workflow: &Workflow, stand_in: fn(usize) -> String) -> Result<(), Mistake> {
    let seen = RefCell::new(HashMap::new());
    let variable = |name: &str| {
        let mut seen = seen.borrow_mut();
        let next = seen.len();
        Some(stand_in(*seen.entry(name.to_owned()).or_insert(next)))
    };
    let values = Values { run_name: "check", args: &[], env: &variable, secret: &|_| Ok(Some("secret".to_owned())) };
    plan(&resolve(workflow, &values)?).map(|_| ())
}

impl Report {
    /// The mistakes as data.
    #[must_use]
    pub fn told(&self) -> Vec<Told<'_>> {
        self.mistakes.iter().map(Told::of).collect()
    }

    /// All of it for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mistakes = self.mistakes.iter().map(|mistake| format!("{mistake}\n\n")).collect::<Vec<_>>().concat();
        let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
        let end = match self.mistakes.len() {
            0 => format!("{}, no mistakes\n", count(self.good, "workflow")),
            MAX_MISTAKES => format!("{MAX_MISTAKES} mistakes, and there may be more\n"),
            number => format!("{}\n", count(number, "mistake")),
        };
        mistakes + &end
    }
}

impl<'a> Told<'a> {
    fn of(mistake: &'a Mistake) -> Self {
        Self {
            file: mistake.file(),
            line: mistake.span().line,
            column: mistake.span().column,
            problem: mistake.problem().to_string(),
            hint: mistake.problem().hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(files: &[(&str, &str)]) -> Report {
        let mut checker = Checker::default();
        for (name, text) in files {
            checker.file(name, text.as_bytes());
        }
        checker.finish()
    }

    fn places(report: &Report) -> Vec<String> {
        report
            .told()
            .iter()
            .map(|told| format!("{}:{}:{} {}", told.file, told.line, told.column, told.problem))
            .collect()
    }

    #[test]
    fn every_mistake_is_told() {
        let first = "\
workflows:
  - name: a
    imgae: ubuntu
    resources: {memory: 16QB}
    ports: 8080
  - name: B
    image: x
    working_dri: src
  - name: c
    image: x
    artifacts: [out, ./out/]
  - name: d
  - image: x
  - name: good
    image: x
  - just text
";
        let second = "workflows: [{name: good, image: x}, {name: other, image: x, provider: bash}]";
        let report = report(&[("1.yaml", first), ("2.yaml", second), ("3.yaml", "a: 'b\n"), ("4.yaml", "")]);
        let places = places(&report);
        let expected = [
            "1.yaml:3:5 unknown key `imgae` in a workflow",
            "1.yaml:4:25 `memory` is wrong: size `16QB` is malformed",
            "1.yaml:5:12 `ports` is wrong: `8080` is not a number of free ports",
            "1.yaml:6:11 `name` is wrong: `B` is not a workflow name",
            "1.yaml:8:5 unknown key `working_dri` in a workflow",
            "1.yaml:11:22 `path` is wrong: `out` and `out` on line 11 are one directory",
            "1.yaml:12:11 workflow `d` has no `image`",
            "1.yaml:13:5 the workflow has no `name`",
            "1.yaml:16:5 `workflows` must be a list of workflows",
            "2.yaml:1:20 workflow name `good` stands twice, first at 1.yaml:14:11",
            "2.yaml:1:71 `provider` is wrong: there is no provider `bash`",
            "3.yaml:1:4 malformed YAML",
            "4.yaml:1:1 the file is empty",
        ];
        assert_eq!(places.len(), expected.len(), "{places:#?}");
        for (place, expected) in places.iter().zip(expected) {
            assert!(place.starts_with(expected), "{place}\nexpected {expected}");
        }
        assert_eq!(report.good, 1);
        let text = report.text();
        assert!(text.contains("\nhint: did you mean `image`?\n\n1.yaml:4:25: "), "{text}");
        assert!(text.ends_with("\n\n13 mistakes\n"), "{text}");
    }

    #[test]
    fn what_workflows_need_of_each_other() {
        let text = "\
workflows:
  - {name: a, image: x, deps: [b, nobody]}
  - {name: b, image: x, deps: [c]}
  - {name: c, image: x, deps: [b, {workflow: neither}]}
  - {name: d, deps: [a, \":tag\"]}
  - {name: e, image: x, deps: [e]}
";
        let expected = [
            "w:2:35 `workflow` is wrong: there is no workflow `nobody` in this project",
            "w:4:32 the dependencies go round in a circle: `b` needs `c` needs `b`",
            "w:4:46 `workflow` is wrong: there is no workflow `neither` in this project",
            "w:5:12 workflow `d` has no `image`",
            "w:6:32 `workflow` is wrong: the workflow needs itself",
        ];
        let found = report(&[("w", text)]);
        assert_eq!(places(&found), expected);
        assert_eq!(found.good, 3);
        // A workflow that does not parse may be the one that is needed.
        let report = report(&[("w", "workflows: [{name: a, image: x, deps: [b]}, {name: b, imgae: x}]")]);
        assert_eq!(places(&report), ["w:1:55 unknown key `imgae` in a workflow"]);
    }

    #[test]
    fn variables_may_be_anything() {
        for (lines, expected) in [
            ("image: \"x:${{ env.TAG }}\"", None),
            ("image: x, provider: \"${{ env.P }}\"", None),
            ("image: x, home_dir: \"${{ env.HOME }}\", artifacts: [~/x]", None),
            ("image: x, home_dir: \"${{ env.HOME }}\", resources: {memory: \"${{ env.M }}\"}", None),
            ("image: x, resources: {memory: \"${{ env.M }}GB\", cpu: \"${{ env.C }}\", gpu: \"${{ env.G }}\"}", None),
            ("image: x, ports: [\"${{ env.A }}\", \"${{ env.B }}\"]", None),
            ("image: x, artifacts: [\"${{ env.A }}\", \"${{ env.B }}\"]", None),
            ("file: a.py, version: \"${{ env.V }}\"", None),
            ("image: x, env: [\"A=${{ secrets.B }}\"], commands: [\"echo ${{ run.args }}\"]", None),
            ("image: x, commands: [\"echo ${{ run.name\"]", Some("${{")),
            ("image: x, commands: [\"echo ${{ run.nmae }}\"]", Some("run.nmae")),
            ("image: x, ports: [\"${{ env.A }}\", \"${{ env.A }}\"]", None),
            ("image: x, artifacts: [\"out/${{ env.A }}\", out]", Some("are one directory")),
            ("image: x, resources: {memory: \"${{ env.M }}QB\"}", Some("QB")),
        ] {
            let report = report(&[("w", &format!("workflows: [{{name: a, {lines}}}]"))]);
            match expected {
                None => assert!(report.mistakes.is_empty(), "{lines}: {}", report.text()),
                Some(words) => assert!(report.text().contains(words), "{lines}: {}", report.text()),
            }
        }
    }

    #[test]
    fn no_mistakes() {
        assert_eq!(report(&[("w", "workflows: [{name: a, image: x}]")]).text(), "1 workflow, no mistakes\n");
        assert_eq!(report(&[("w", "workflows: []")]).text(), "0 workflows, no mistakes\n");
        assert!(report(&[]).told().is_empty());
    }

    #[test]
    fn a_wrong_key_is_told_once() {
        for (lines, count) in [
            ("name: a\n    registry_auth: hunter2\n    image: x", 1),
            ("name: a\n    x: 1\n    x: 2\n    image: x", 2),
            ("name: a\n    image: x\n    image: y", 1),
            ("name: A\n    image: 'X'", 2),
            ("image: 'X'", 2),
            ("name: {}\n    name: 1\n    name: []\n    image: 'X'", 4),
            ("? [a]\n    : b\n    name: a\n    image: 'X'", 2),
        ] {
            let report = report(&[("w", &format!("workflows:\n  - {lines}\n"))]);
            assert_eq!(report.mistakes.len(), count, "{lines}: {}", report.text());
            assert!(!report.text().contains("hunter2"));
        }
    }

    #[test]
    fn mistakes_in_a_shared_anchor_end() {
        let text = "workflows:\n  - &base {name: a, image: x, memory: 1}\n  - {<<: *base, name: b, artefacts: []}\n";
        let report = report(&[("w", text)]);
        assert!((2..=4).contains(&report.mistakes.len()), "{}", report.text());
    }

    #[test]
    fn there_is_an_end_to_mistakes() {
        let workflows = (0..3000).map(|n| format!("{{name: w{n}, imgae: x}},")).collect::<Vec<_>>().concat();
        let keys = (0..3000).map(|n| format!("k{n}: 1,")).collect::<Vec<_>>().concat();
        let started = std::time::Instant::now();
        let report = report(&[
            ("a", &format!("workflows: [{{name: x, {keys}}}]")),
            ("b", &format!("workflows: [{workflows}]")),
            ("c", "workflows: 1"),
        ]);
        assert_eq!(report.mistakes.len(), MAX_MISTAKES);
        assert!(report.text().ends_with("1000 mistakes, and there may be more\n"));
        assert!(started.elapsed().as_secs() < 10, "took {:?}", started.elapsed());
    }
}
