//! Dependencies between the workflows of a project: that each one named is there, and that none needs itself.

use std::collections::HashMap;

use super::file::{Dependency, Workflow};
use super::find::Workflows;
use super::interpolate::{Given, Resolved, ResolvedDependency};
use super::mistake::{Mistake, Problem, shown};
use super::source::{At, Text};
use crate::words::nearest;

/// Longest circle that is shown in full.
const MAX_SHOWN: usize = 20;

/// Checks the dependencies of all workflows, as far as they stand in the files and not in variables.
///
/// # Errors
/// A `workflow:` that the project does not have; a circle.
pub fn check(workflows: &Workflows) -> Result<(), Mistake> {
    let graph = Graph::new(workflows);
    let mut done = HashMap::new();
    workflows.iter().try_for_each(|workflow| graph.visit(workflow, &mut done))
}

/// All that [`check`] finds; of circles that touch each other one, and none of a workflow that names itself, which
/// [`plan`](super::plan) tells.
#[must_use]
pub fn check_all(workflows: &[Workflow]) -> Vec<Mistake> {
    let mut graph = Graph::of(workflows.iter());
    graph.only_circles = true;
    let mut mistakes = Vec::new();
    for workflow in workflows {
        let unknown = needs(workflow).into_iter().filter(|at| !graph.workflows.contains_key(at.value));
        mistakes.extend(unknown.map(|at| graph.unknown_at(workflow, &at)));
    }
    let mut done = HashMap::new();
    for workflow in workflows {
        if let Err(mistake) = graph.visit(workflow, &mut done) {
            mistakes.push(mistake);
            for through in done.values_mut() {
                *through = true;
            }
        }
    }
    mistakes
}

/// Checks what one workflow needs, directly or not; its own dependencies as they were filled in.
///
/// # Errors
/// As [`check`].
pub fn check_one(workflows: &Workflows, workflow: &Resolved) -> Result<(), Mistake> {
    let graph = Graph::new(workflows);
    for Given { value, place } in &workflow.deps {
        let ResolvedDependency::Workflow(name) = value else { continue };
        if !graph.workflows.contains_key(name.as_str()) {
            return Err(workflow.mistake(*place, "workflow", &graph.unknown(name, &workflow.name.value)));
        }
    }
    match graph.workflows.get(workflow.name.value.as_str()) {
        Some(start) => graph.visit(start, &mut HashMap::new()),
        None => Ok(()),
    }
}

struct Graph<'a> {
    workflows: HashMap<&'a str, &'a Workflow>,
    /// Whether names of no workflow, and its own in a workflow, are passed over.
    only_circles: bool,
}

/// How far the search is with a workflow: in it, or through.
type Done<'a> = HashMap<&'a str, bool>;

impl<'a> Graph<'a> {
    fn new(workflows: &'a Workflows) -> Self {
        Self::of(workflows.iter())
    }

    fn of(workflows: impl Iterator<Item = &'a Workflow>) -> Self {
        let workflows = workflows.map(|workflow| (workflow.name.value.as_str(), workflow)).collect();
        Self { workflows, only_circles: false }
    }

    /// Goes through all that `start` needs. A loop and no recursion: a file may have ten thousand workflows in a chain.
    fn visit(&self, start: &'a Workflow, done: &mut Done<'a>) -> Result<(), Mistake> {
        if done.contains_key(start.name.value.as_str()) {
            return Ok(());
        }
        let mut path = vec![(start, needs(start))];
        done.insert(&start.name.value, false);
        while let Some((workflow, needed)) = path.last_mut() {
            let workflow = *workflow;
            let Some(at) = needed.pop() else {
                done.insert(&workflow.name.value, true);
                path.pop();
                continue;
            };
            let next = self.workflows.get(at.value);
            if self.only_circles && next.is_none_or(|next| next.name.value == workflow.name.value) {
                continue;
            }
            let Some(next) = next else { return Err(self.unknown_at(workflow, &at)) };
            match done.get(at.value) {
                Some(true) => {}
                Some(false) => {
                    let names = path.iter().map(|(workflow, _)| workflow.name.value.as_str());
                    let circle = names.skip_while(|name| *name != at.value).chain([at.value]);
                    return Err(workflow.mistake(at.span, Problem::Cycle(shown_circle(&circle.collect::<Vec<_>>()))));
                }
                None => {
                    done.insert(&next.name.value, false);
                    path.push((next, needs(next)));
                }
            }
        }
        Ok(())
    }

    fn unknown_at(&self, workflow: &Workflow, at: &At<&str>) -> Mistake {
        workflow.mistake(at.span, Problem::bad_value("workflow", &self.unknown(at.value, &workflow.name.value)))
    }

    /// What is told of `name`, which `whose` needs.
    fn unknown(&self, name: &str, whose: &str) -> String {
        let hint = match nearest(name, self.workflows.keys().copied().filter(|known| *known != whose)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "`dockless workflow list` shows them".to_owned(),
        };
        format!("there is no workflow `{}` in this project\nhint: {hint}", shown(name))
    }
}

/// The workflows that one needs, the first of them last.
fn needs(workflow: &Workflow) -> Vec<At<&str>> {
    let all = workflow.deps.iter().flat_map(|deps| &deps.value).rev();
    all.filter_map(|dependency| match dependency {
        Dependency::Workflow(At { value: Text::Literal(name), span }) => Some(At { value: name.as_str(), span: *span }),
        _ => None,
    })
    .collect()
}

fn shown_circle(names: &[&str]) -> String {
    let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" needs ");
    if names.len() <= MAX_SHOWN {
        return quoted(names);
    }
    let (first, last) = (quoted(&names[..MAX_SHOWN / 2]), quoted(&names[names.len() - 2..]));
    format!("{first} needs … needs {last} ({} workflows)", names.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::interpolate::{Values, resolve};
    use super::*;

    /// A project of `(name, dependencies)`.
    fn project(workflows: &[(&str, &[&str])]) -> Workflows {
        let item = |(name, deps): &(&str, &[&str])| {
            let deps: Vec<String> = deps.iter().map(|dep| format!("{{workflow: {dep}}}")).collect();
            format!("  - name: {name}\n    image: i\n    deps: [{}]\n", deps.join(", "))
        };
        let text: String = workflows.iter().map(item).collect();
        Workflows::of(parse("w.yaml", format!("workflows:\n{text}").as_bytes()).unwrap())
    }

    fn one(workflows: &Workflows, name: &str) -> Result<(), Mistake> {
        let env = |name: &str| Some(name.to_lowercase());
        let values = Values { run_name: "r", args: &[], env: &env, secret: &|_| Ok(None) };
        check_one(workflows, &resolve(workflows.get(name).unwrap(), &values).unwrap())
    }

    #[test]
    fn what_is_there_and_goes_one_way_is_fine() {
        let diamond = project(&[("a", &["b", "c", "b"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]);
        assert!(check(&diamond).is_ok() && one(&diamond, "a").is_ok());
    }

    #[test]
    fn circles_are_shown() {
        for (workflows, place, circle) in [
            (&[("a", &["a"][..])][..], "4:23", "`a` needs `a`"),
            (&[("a", &["b"][..]), ("b", &["a"])], "7:23", "`a` needs `b` needs `a`"),
            (
                &[("x", &["a"][..]), ("a", &["ok", "b"]), ("b", &["c"]), ("c", &["a"]), ("ok", &[])],
                "13:23",
                "`a` needs `b` needs `c` needs `a`",
            ),
        ] {
            let project = project(workflows);
            for mistake in [check(&project).unwrap_err(), one(&project, workflows[0].0).unwrap_err()] {
                let text = mistake.to_string();
                let start = format!("w.yaml:{place}: the dependencies go round in a circle: {circle}\n");
                assert!(text.starts_with(&start) && text.contains("hint: "), "{text}");
            }
        }
    }

    #[test]
    fn a_workflow_that_is_not_there_is_told_with_the_nearest() {
        let project = project(&[("train", &["prepaer"]), ("prepare", &[]), ("lost", &["nowhere"]), ("fine", &[])]);
        let text = one(&project, "train").unwrap_err().to_string();
        assert!(text.starts_with("w.yaml:4:23: `workflow` is wrong: there is no workflow `prepaer`"), "{text}");
        assert!(text.contains("hint: did you mean `prepare`?"), "{text}");
        let text = one(&project, "lost").unwrap_err().to_string();
        assert!(text.contains("hint: `dockless workflow list` shows them"), "{text}");
        // What another workflow needs is of no concern to this one.
        assert!(one(&project, "fine").is_ok() && check(&project).is_err());
    }

    #[test]
    fn names_from_variables_are_looked_up() {
        let text = "workflows:\n  - {name: a, image: i, deps: [{workflow: '${{ env.B }}'}, {tag: '${{ env.T }}'}]}\n  - {name: b, image: i}\n";
        let workflows = |text: &str| Workflows::of(parse("w.yaml", text.as_bytes()).unwrap());
        assert!(one(&workflows(text), "a").is_ok());
        let text = one(&workflows(&text.replace("name: b", "name: c")), "a").unwrap_err().to_string();
        assert!(text.contains("there is no workflow `b`"), "{text}");
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let names: Vec<String> = (0..10_000).map(|n| format!("w{n}")).collect();
        let chain = |last: &str| {
            let next = |n: usize| names.get(n + 1).map_or(last, String::as_str).to_owned();
            let items = names.iter().enumerate().map(|(n, name)| {
                let deps = if next(n).is_empty() { String::new() } else { format!("{{workflow: {}}}", next(n)) };
                format!("  - name: {name}\n    deps: [{deps}]\n")
            });
            Workflows::of(parse("w", format!("workflows:\n{}", items.collect::<String>()).as_bytes()).unwrap())
        };
        assert!(check(&chain("")).is_ok());
        let text = check(&chain("w5")).unwrap_err().to_string();
        assert!(text.contains("`w5` needs `w6`") && text.contains("`w9999` needs `w5` (9995 workflows)"), "{text}");
        assert!(text.len() < 1000, "{text}");
    }
}
