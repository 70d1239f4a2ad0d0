//! What is to be done, found out by looking only.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::{Action, Digest, Entry, Error, Folder, Manifest, Result, Step};

/// A file that is to be in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name there.
    pub name: String,
    /// What it holds.
    pub content: Content,
    /// Permissions.
    pub mode: u32,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What another file holds.
    File(PathBuf),
    /// This.
    Text(&'static str),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("its text"),
        }
    }
}

impl Content {
    pub(crate) fn copy_to(&self, target: &mut fs::File) -> io::Result<()> {
        match self {
            Self::File(path) => io::copy(&mut fs::File::open(path)?, target).map(drop),
            Self::Text(text) => target.write_all(text.as_bytes()),
        }
    }

    fn digest(&self) -> Result<Digest> {
        let path = match self {
            Self::Text(text) => return Ok(Digest::of(text.as_bytes())),
            Self::File(path) => path,
        };
        let no_source = || Error::NoSource {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let path = path.canonicalize().map_err(|_| no_source())?;
        Digest::at(&path)?.ok_or_else(no_source)
    }
}

/// Steps, in their order, and what there is to say about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Plan {
    /// What puts these files into these folders. What somebody else has there is kept for him, unless `keep` is false.
    ///
    /// # Errors
    /// A file is not there, or a place is no file's.
    pub fn install(wanted: &[(Folder, Vec<Wanted>)], keep: bool) -> Result<Self> {
        let (mut plan, mut last) = (Self::default(), Vec::new());
        for (folder, files) in wanted {
            let begun = plan.steps.len();
            plan.install_into(folder, files, keep)?;
            if plan.steps.len() > begun || folder.new_files().exists() {
                last.push(Step { folder: folder.clone(), action: Action::Tidy });
            }
        }
        plan.steps.extend(last);
        Ok(plan)
    }

    fn install_into(&mut self, folder: &Folder, files: &[Wanted], keep: bool) -> Result<()> {
        let before = folder.manifest()?;
        let mut goal = before
            .clone()
            .unwrap_or_else(|| Manifest { made_directories: folder.missing_directories(), ..Manifest::default() });
        let (mut meanwhile, mut write, mut place) = (goal.clone(), Vec::new(), Vec::new());
        for name in goal.files.keys().filter(|name| !files.iter().any(|wanted| wanted.name == **name)) {
            self.note(format!(
                "{} was installed under that name earlier and stays as it is",
                folder.place(name).display()
            ));
        }
        for Wanted { name, content, mode } in files {
            let digest = content.digest()?;
            let now = Digest::at(&folder.place(name))?;
            let known = goal.files.get(name).cloned().unwrap_or_default();
            let is_foreign = now.as_ref().is_some_and(|now| !known.ours.contains(now));
            let kept = match now.clone().filter(|_| is_foreign) {
                foreign @ Some(_) => foreign,
                None => known.kept,
            };
            let kept = kept.filter(|_| keep);
            goal.files.insert(name.clone(), Entry { ours: vec![digest.clone()], kept: kept.clone() });
            if now.as_ref() == Some(&digest) && !is_foreign && has_mode(&folder.place(name), *mode) {
                continue;
            }
            let mut ours = vec![digest.clone()];
            ours.extend(known.ours.into_iter().filter(|other| *other != digest));
            meanwhile.files.insert(name.clone(), Entry { ours, kept });
            write.push(Action::Write { name: name.clone(), content: content.clone(), digest, mode: *mode });
            if now.is_some() {
                write.push(Action::Save(name.clone()));
            }
            if is_foreign && keep {
                write.push(Action::Keep(name.clone()));
                self.note(format!(
                    "{} is somebody else's: it is kept, and comes back with `adit uninstall`",
                    folder.place(name).display()
                ));
            } else if is_foreign {
                self.note(format!("{} is somebody else's and is replaced for good", folder.place(name).display()));
            }
            place.push(Action::Place(name.clone()));
        }
        if place.is_empty() && before.as_ref() == Some(&goal) {
            return Ok(());
        }
        let mut actions = vec![Action::MakeDirectories(folder.missing_directories())];
        if !place.is_empty() {
            actions.extend(write);
            // Before anything is in its place: whatever happens then, it is known whose it is.
            actions.push(Action::Record(meanwhile.clone(), before));
            actions.extend(place);
            actions.push(Action::Record(goal, Some(meanwhile)));
        } else {
            actions.push(Action::Record(goal, before));
        }
        self.steps.extend(actions.into_iter().map(|action| Step { folder: folder.clone(), action }));
        Ok(())
    }

    /// What removes everything that was installed in these folders, and nothing else.
    ///
    /// # Errors
    /// It cannot be found out what that is.
    pub fn uninstall(folders: &[Folder]) -> Result<Self> {
        let (mut plan, mut last) = (Self::default(), Vec::new());
        for folder in folders {
            let made = folder.manifest()?.map_or(0, |manifest| manifest.made_directories);
            let begun = plan.steps.len();
            plan.uninstall_from(folder)?;
            if plan.steps.len() > begun || folder.own().exists() {
                let clean = [Action::Tidy, Action::RemoveDirectories(made)];
                last.extend(clean.map(|action| Step { folder: folder.clone(), action }));
            }
        }
        plan.steps.extend(last);
        Ok(plan)
    }

    fn uninstall_from(&mut self, folder: &Folder) -> Result<()> {
        let Some(manifest) = folder.manifest()? else {
            self.note(format!("nothing is installed in {}", folder.path().display()));
            return Ok(());
        };
        let mut actions = vec![Action::MakeDirectories(0)];
        for (name, entry) in &manifest.files {
            let now = Digest::at(&folder.place(name))?;
            let kept = Digest::at(&folder.kept().join(name))?.filter(|kept| Some(kept) == entry.kept.as_ref());
            let place = folder.place(name);
            match (now, kept) {
                (Some(now), Some(_)) if entry.ours.contains(&now) => {
                    actions.extend([Action::Save(name.clone()), Action::Restore(name.clone())]);
                }
                (None, Some(_)) => actions.push(Action::Restore(name.clone())),
                // It was never replaced, or is back already.
                (Some(now), _) if entry.kept.as_ref() == Some(&now) => {}
                (Some(now), None) if entry.ours.contains(&now) => {
                    if entry.kept.is_some() {
                        self.note(format!("what stood at {} before is lost", place.display()));
                    }
                    actions.extend([Action::Save(name.clone()), Action::Remove(name.clone())]);
                }
                (Some(_), _) => {
                    self.note(format!("{} was replaced by somebody else since, and stays as it is", place.display()));
                }
                (None, None) => {}
            }
        }
        actions.push(Action::Forget(manifest));
        self.steps.extend(actions.into_iter().map(|action| Step { folder: folder.clone(), action }));
        Ok(())
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Walks the steps; walks back when one fails.
    ///
    /// # Errors
    /// Why a step failed; and what could not be undone then.
    pub fn apply(&self) -> Result<()> {
        for (done, step) in self.steps.iter().enumerate() {
            let Err(error) = step.perform() else { continue };
            if step.is_cleanup() {
                return Err(error);
            }
            // The step that failed, too: it may have been done, and only not been made sure of.
            let walked = self.steps.iter().take(done.saturating_add(1));
            let undo = walked.rev().filter_map(|step| step.undo().err());
            let problems: Vec<String> = undo.map(|error| error.to_string()).collect();
            return match problems.is_empty() {
                true => Err(error),
                false => Err(Error::NotUndone { source: Box::new(error), problems }),
            };
        }
        Ok(())
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

fn has_mode(path: &Path, mode: u32) -> bool {
    path.symlink_metadata().is_ok_and(|found| !found.is_symlink() && found.permissions().mode() & 0o7777 == mode)
}
