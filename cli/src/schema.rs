//! `adit schema`: what editors need to complete a configuration.

use adit_lint::schema::{Subject, schema};

use crate::Said;

/// The schema of `subject`, as `conf/schema` holds it.
pub fn print(subject: Subject) -> Said {
    Ok(format!("{:#}\n", schema(subject)))
}
