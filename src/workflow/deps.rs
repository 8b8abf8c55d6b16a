//! Dependencies between the workflows of a project: that each one named is there, and that none needs itself.

use std::collections::HashMap;

use super::fields::nearest;
use super::file::{Dependency, Workflow};
use super::find::Workflows;
use super::interpolate::{Given, Resolved, ResolvedDependency};
use super::mistake::{Mistake, Problem, shown};
use super::source::{At, Text};

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

/// Checks what one workflow needs, directly or not; its own dependencies as they were filled in.
///
/// # Errors
/// As [`check`].
pub fn check_one(workflows: &Workflows, workflow: &Resolved) -> Result<(), Mistake> {
    let graph = Graph::new(workflows);
    for Given { value, place } in &workflow.deps {
        let ResolvedDependency::Workflow(name) = value else { continue };
        if !graph.workflows.contains_key(name.as_str()) {
            return Err(workflow.mistake(*place, "workflow", &graph.unknown(name)));
        }
    }
    match graph.workflows.get(workflow.name.value.as_str()) {
        Some(start) => graph.visit(start, &mut HashMap::new()),
        None => Ok(()),
    }
}

struct Graph<'a> {
    workflows: HashMap<&'a str, &'a Workflow>,
}

/// How far the search is with a workflow: in it, or through.
type Done<'a> = HashMap<&'a str, bool>;

impl<'a> Graph<'a> {
    fn new(workflows: &'a Workflows) -> Self {
        Self { workflows: workflows.iter().map(|workflow| (workflow.name.value.as_str(), workflow)).collect() }
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
            let Some(next) = self.workflows.get(at.value) else {
                return Err(workflow.mistake(at.span, Problem::bad_value("workflow", &self.unknown(at.value))));
            };
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

    fn unknown(&self, name: &str) -> String {
        let hint = match nearest(name, self.workflows.keys().copied()) {
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
