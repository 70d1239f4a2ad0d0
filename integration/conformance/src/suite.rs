//! Which cases there are, and running all of them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    case::{self, Instance},
    compare::{self, Difference, Improvement},
    needs::Needs,
    run::{self, Record, Settings},
    text,
};

const BUILT_IN: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// The cases of a run and the directories that they run with.
#[derive(Debug)]
pub struct Suite {
    /// The plugins under test.
    pub plugins: PathBuf,
    /// The other implementation.
    pub against: Option<PathBuf>,
    /// What runs.
    pub instances: Vec<Instance>,
}

/// What one implementation did in a case.
#[derive(Debug)]
pub enum Side {
    /// The case says nothing about it, for this reason.
    LeftOut(String),
    /// It did.
    Ran(Box<Record>),
    /// The harness could not do its part.
    Broken(String),
}

impl Side {
    fn forget_states(&mut self) {
        if let Self::Ran(record) = self {
            record.start = None;
            record.steps.iter_mut().for_each(|step| step.state = None);
        }
    }
}

/// What came out of a case.
#[derive(Debug)]
pub struct Outcome {
    /// Which one.
    pub instance: Instance,
    /// With the plugins under test.
    pub plugins: Side,
    /// With the other implementation.
    pub against: Option<Side>,
    /// Where they differ.
    pub differences: Vec<Difference>,
    /// How long all of it took.
    pub took: Duration,
}

impl Suite {
    /// Reads the cases. Without plugins, for a list, `*` stands for itself.
    pub fn load(
        plugins: Option<&Path>,
        against: Option<&Path>,
        cases: Option<&Path>,
        wanted: &[String],
    ) -> Result<Self> {
        let mut programs = vec!["*".to_owned()];
        if let Some(directory) = plugins {
            programs = executables(directory)?;
        }
        if let Some(directory) = against {
            let others: BTreeSet<String> = executables(directory)?.into_iter().collect();
            programs.retain(|program| others.contains(program));
        }
        let mut instances = Vec::new();
        for (name, source) in sources(cases)? {
            instances.extend(case::instances(&name, &source, &programs)?);
        }
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|pattern| text::matches(pattern, name));
        instances.retain(|instance| is_wanted(&instance.name));
        if instances.is_empty() {
            return Err(Error::NoCase(wanted.join(", ")));
        }
        Ok(Self {
            plugins: plugins.map(absolute).transpose()?.unwrap_or_default(),
            against: against.map(absolute).transpose()?,
            instances,
        })
    }

    /// Runs every case, several at a time; the outcomes are in the order of the cases.
    pub fn run(&self, settings: &Settings, jobs: usize) -> Result<Vec<Outcome>> {
        let needs = Needs::default();
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(instance) = self.instances.get(number) else { return };
                        let outcome = self.outcome(instance, &needs, settings);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(number, _)| *number);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    fn outcome(&self, instance: &Instance, needs: &Needs, settings: &Settings) -> Outcome {
        let began = Instant::now();
        let side = |directory: &Path| {
            if let Some(reason) = needs.missing(&instance.case, directory, settings) {
                return Side::LeftOut(reason);
            }
            match run::case(instance, directory, settings) {
                Ok(record) => Side::Ran(Box::new(record)),
                Err(error) => Side::Broken(error.to_string()),
            }
        };
        let mut plugins = side(&self.plugins);
        let mut against = self.against.as_deref().map(side);
        let differences = match (&plugins, &against) {
            (Side::Ran(plugins), Some(Side::Ran(against))) => compare::differences(instance, plugins, against),
            _ => Vec::new(),
        };
        // Pictures of the kernel are large, and every start of a process copies the tables of all memory.
        [Some(&mut plugins), against.as_mut()].into_iter().flatten().for_each(Side::forget_states);
        Outcome { instance: instance.clone(), plugins, against, differences, took: began.elapsed() }
    }
}

/// A directory of the command line.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The differences that are meant.
pub fn improvements(path: &Path) -> Result<Vec<Improvement>> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| Error::Expect { path: path.to_owned(), source })
}

fn sources(cases: Option<&Path>) -> Result<Vec<(String, String)>> {
    let Some(root) = cases else {
        return Ok(BUILT_IN.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect());
    };
    let mut sources = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |source| Error::Read { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                let source = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
                let name = path.strip_prefix(root).unwrap_or(&path).with_extension("");
                sources.push((name.display().to_string(), source));
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// The plugins of a directory: executable files whose name has no dot (build directories hold more than programs).
fn executables(directory: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Read { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Distributions install links.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.contains('.')));
        }
    }
    names.sort();
    if names.is_empty() { Err(Error::NoPlugins(directory.to_owned())) } else { Ok(names) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_schema_knows_every_key_that_a_case_uses() {
        let schema: Value = serde_json::from_str(include_str!("../case.schema.json")).unwrap();
        let known = |pointer: &str, value: &Value, name: &str| {
            let keys = schema.pointer(pointer).unwrap().as_object().unwrap();
            for key in value.as_object().unwrap().keys() {
                assert!(keys.contains_key(key), "{name}: {key} is not in {pointer} of the schema");
            }
        };
        for (name, source) in BUILT_IN {
            let case: Value = serde_json::from_str(source).unwrap();
            known("/properties", &case, name);
            for step in case["steps"].as_array().unwrap() {
                known("/$defs/step/properties", step, name);
                for part in ["kill", "expect", "unchanged"].into_iter().filter(|part| step.get(part).is_some()) {
                    known(&format!("/$defs/step/properties/{part}/properties"), &step[part], name);
                }
            }
        }
    }

    #[test]
    fn every_built_in_case_can_be_read_and_needs_only_what_can_be_looked_up() {
        let suite = Suite::load(None, None, None, &[]).unwrap();
        for instance in &suite.instances {
            for need in &instance.case.needs {
                assert!(crate::needs::is_known(need), "{}: unknown need {need}", instance.name);
            }
            assert!(instance.case.spec.len() > 10, "{}: no paragraph decides", instance.name);
        }
    }
}
