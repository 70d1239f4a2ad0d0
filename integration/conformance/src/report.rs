//! What a person and what a program reads.
#![expect(clippy::print_stderr, reason = "a command-line tool says what it found")]

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::{
    Error,
    compare::{Difference, Improvement},
    suite::{Outcome, Side, Suite},
};

/// The outcomes, and what they mean together.
#[derive(Debug)]
pub struct Report<'a> {
    outcomes: Vec<Outcome>,
    expected: &'a [Improvement],
    reference: Option<&'a str>,
    /// Listed differences that no longer are.
    stale: Vec<String>,
}

impl<'a> Report<'a> {
    /// Judges the outcomes by the differences that are meant.
    ///
    /// Only a run of all cases (`whole`) can say that a listed one is gone.
    pub fn new(outcomes: Vec<Outcome>, expected: &'a [Improvement], reference: Option<&'a str>, whole: bool) -> Self {
        let mut report = Self { outcomes, expected, reference, stale: Vec::new() };
        if whole {
            report.stale = report.find_stale();
        }
        report
    }

    /// Whether every case passes, every difference is listed and every listed one is there.
    pub fn is_ok(&self) -> bool {
        self.stale.is_empty() && self.outcomes.iter().all(|outcome| self.is_right(outcome))
    }

    fn is_right(&self, outcome: &Outcome) -> bool {
        let broken = matches!(outcome.against, Some(Side::Broken(_)));
        outcome.plugins.faults().is_empty() && !broken && self.unlisted(outcome).next().is_none()
    }

    fn unlisted<'s>(&'s self, outcome: &'s Outcome) -> impl Iterator<Item = &'s Difference> {
        outcome.differences.iter().filter(|difference| self.reason(outcome, difference).is_none())
    }

    fn reason(&self, outcome: &Outcome, difference: &Difference) -> Option<&Improvement> {
        let concerned = self.expected.iter().filter(|improvement| improvement.concerns(self.reference));
        concerned.into_iter().find(|improvement| improvement.explains(&outcome.instance.name, difference))
    }

    /// Every pattern of every entry must be of use; entries about cases that did not run on both sides are left alone.
    fn find_stale(&self) -> Vec<String> {
        let mut stale = Vec::new();
        let concerned = self.expected.iter().filter(|improvement| improvement.concerns(self.reference));
        for improvement in concerned.filter(|improvement| !improvement.may_be_absent(self.reference)) {
            let about = |outcome: &&Outcome| crate::text::matches(&improvement.case, &outcome.instance.name);
            let ran =
                |outcome: &&Outcome| matches!((&outcome.plugins, &outcome.against), (Side::Ran(_), Some(Side::Ran(_))));
            let compared: Vec<&Outcome> = self.outcomes.iter().filter(about).filter(ran).collect();
            if compared.is_empty() {
                continue;
            }
            for pattern in &improvement.points {
                let occurs = compared.iter().flat_map(|outcome| &outcome.differences);
                if !occurs.into_iter().any(|difference| improvement.is_at(pattern, difference)) {
                    stale.push(format!("{}: {pattern}", improvement.case));
                }
            }
        }
        stale
    }

    /// Which of the two follows the specification.
    fn verdict(&self, outcome: &Outcome) -> &'static str {
        let right = |side: Option<&Side>| side.is_some_and(|side| side.faults().is_empty());
        match (right(Some(&outcome.plugins)), right(outcome.against.as_ref())) {
            _ if outcome.differences.is_empty() => "equal",
            (true, false) => "plugins",
            (false, true) => "against",
            (true, true) => "both",
            (false, false) => "neither",
        }
    }

    /// A line for every case, then what is behind the lines that are not plain.
    pub fn table(&self, suite: &Suite) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let width = self.outcomes.iter().map(|outcome| outcome.instance.name.len()).max().unwrap_or_default();
        writeln!(out, "{:width$}  {:8}  {:8}  differences", "case", "plugins", "against")?;
        for outcome in &self.outcomes {
            let against = outcome.against.as_ref().map_or("-", Side::word);
            let name = &outcome.instance.name;
            writeln!(out, "{name:width$}  {:8}  {against:8}  {}", outcome.plugins.word(), self.remark(outcome))?;
        }
        for outcome in &self.outcomes {
            self.detail(&mut out, outcome)?;
        }
        for stale in &self.stale {
            writeln!(out, "\nlisted as a difference, but there is none: {stale}")?;
        }
        writeln!(
            out,
            "\n{} with {}: {}",
            suite.plugins.display(),
            suite.against.as_ref().map_or("nothing to compare".into(), |path| path.display().to_string()),
            self.summary()
        )
    }

    fn remark(&self, outcome: &Outcome) -> String {
        let unlisted = self.unlisted(outcome).count();
        let left_out = |side: &Side| match side {
            Side::LeftOut(reason) => Some(format!("left out: {reason}")),
            _ => None,
        };
        let reason = left_out(&outcome.plugins).or_else(|| outcome.against.as_ref().and_then(left_out));
        match (reason, outcome.differences.len(), unlisted) {
            (Some(reason), _, _) => reason,
            (_, 0, _) if outcome.against.is_some() => "equal".to_owned(),
            (_, 0, _) => String::new(),
            (_, all, 0) => format!("{all} expected"),
            (_, all, some) => format!("{all}, {some} of them not expected"),
        }
    }

    fn detail(&self, out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
        if self.is_right(outcome) {
            return Ok(());
        }
        let case = &outcome.instance.case;
        writeln!(out, "\n{}: {}\n  decides: {}", outcome.instance.name, case.description, case.spec)?;
        let sides = [("plugins", Some(&outcome.plugins)), ("against", outcome.against.as_ref())];
        for (name, side) in sides.into_iter().filter_map(|(name, side)| Some((name, side?))) {
            for fault in side.faults() {
                writeln!(out, "  {name}: {fault}")?;
            }
        }
        for Difference { point, plugins, against } in self.unlisted(outcome) {
            writeln!(out, "  differs at {point}\n    plugins: {plugins}\n    against: {against}")?;
        }
        let follows = match self.verdict(outcome) {
            "plugins" => "the plugins under test follow the specification, the others do not",
            "against" => "the others follow the specification, the plugins under test do not",
            "both" => "both are within the specification",
            "neither" => "neither follows the specification",
            _ => return Ok(()),
        };
        writeln!(out, "  verdict: {follows}. {}", case.verdict)
    }

    fn counts(&self) -> Value {
        let count = |word: &str| self.outcomes.iter().filter(|outcome| outcome.plugins.word() == word).count();
        let differences: usize = self.outcomes.iter().map(|outcome| outcome.differences.len()).sum();
        let unlisted: usize = self.outcomes.iter().map(|outcome| self.unlisted(outcome).count()).sum();
        let compared = self
            .outcomes
            .iter()
            .filter(|outcome| matches!((&outcome.plugins, &outcome.against), (Side::Ran(_), Some(Side::Ran(_)))));
        json!({
            "cases": self.outcomes.len(), "passed": count("pass"), "failed": count("FAIL"), "leftOut": count("left out"),
            "broken": count("BROKEN"), "compared": compared.count(), "differences": differences, "notExpected": unlisted,
            "notThere": self.stale.len(),
        })
    }

    fn summary(&self) -> String {
        let counts = self.counts();
        let of = |key: &str| counts.get(key).cloned().unwrap_or_default();
        format!(
            "{} cases, {} passed, {} failed, {} left out, {} broken; {} compared, {} differences, {} not expected, {} expected but not there",
            of("cases"),
            of("passed"),
            of("failed"),
            of("leftOut"),
            of("broken"),
            of("compared"),
            of("differences"),
            of("notExpected"),
            of("notThere"),
        )
    }

    /// One document with everything.
    pub fn json(&self, suite: &Suite) -> io::Result<()> {
        let cases: Vec<Value> = self.outcomes.iter().map(|outcome| self.case_json(outcome)).collect();
        let document = json!({
            "plugins": suite.plugins, "against": suite.against, "ok": self.is_ok(), "counts": self.counts(),
            "expectedButNotThere": self.stale, "cases": cases,
        });
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)
    }

    fn case_json(&self, outcome: &Outcome) -> Value {
        let side = |side: &Side| {
            let reason = if let Side::LeftOut(reason) = side { Some(reason) } else { None };
            json!({ "status": side.word().to_lowercase(), "failures": side.faults(), "leftOut": reason })
        };
        let differences = outcome.differences.iter().map(|difference| {
            let reason = self.reason(outcome, difference);
            json!({
                "point": difference.point, "plugins": difference.plugins, "against": difference.against,
                "expected": reason.map(|reason| json!({ "why": reason.why, "spec": reason.spec })),
            })
        });
        let case = &outcome.instance.case;
        json!({
            "name": outcome.instance.name, "description": case.description, "spec": case.spec,
            "plugins": side(&outcome.plugins), "against": outcome.against.as_ref().map(side),
            "differences": differences.collect::<Vec<_>>(), "follows": self.verdict(outcome), "verdict": case.verdict,
            "tookMilliseconds": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Side {
    fn word(&self) -> &'static str {
        match self {
            Self::LeftOut(_) => "left out",
            Self::Broken(_) => "BROKEN",
            Self::Ran(record) if record.failures.is_empty() => "pass",
            Self::Ran(_) => "FAIL",
        }
    }

    /// What is wrong; empty when nothing is.
    fn faults(&self) -> &[String] {
        match self {
            Self::LeftOut(_) => &[],
            Self::Broken(why) => std::slice::from_ref(why),
            Self::Ran(record) => &record.failures,
        }
    }
}

/// The names and descriptions of the cases.
pub fn list(suite: &Suite) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for instance in &suite.instances {
        writeln!(out, "{}\n    {}", instance.name, instance.case.description)?;
    }
    Ok(())
}

/// What the harness itself cannot do.
pub fn complain(error: &Error) {
    eprintln!("conformance: {error}");
}
