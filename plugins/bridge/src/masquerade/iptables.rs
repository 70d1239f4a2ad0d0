//! Masquerading by the programs `iptables` and `ip6tables`, with the reference plugin's chains and comments.
//!
//! ```text
//! -A POSTROUTING -s 10.1.1.2/32 -m comment --comment "name: \"lan\" id: \"c1\"" -j CNI-3b7a1c419a9d1ebc830bb3ca
//! -A CNI-3b7a… -d 10.1.1.0/24 … -j ACCEPT
//! -A CNI-3b7a… ! -d 224.0.0.0/4 … -j MASQUERADE
//! ```
//!
//! The chain is named after network and container, so all interfaces of a container in a network share it. A DEL
//! takes its own addresses' jumps only while another attachment of the container lives, and all of them else.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use adit_cni::{Attachment, Code, Error};
use adit_net::Nftables;
use adit_net::nftables::{Batch, Family, Table};
use adit_plugin::check::mismatch;
use adit_plugin::{collected, net_error};
use ipnetwork::IpNetwork;

use crate::lock::RulesLock;
use crate::reference::{chain_name, comment, is_chain_name, named_in};
use crate::rules::listed;

const POSTROUTING: &str = "POSTROUTING";

/// Where the programs are when `PATH` does not say.
const USUAL_PLACES: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin";

/// One of the programs, which acts on one family's `nat` table.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
}

/// Where a family's rules are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In nf_tables, where they can be listed and deleted without a program.
    Nftables,
    /// In the kernel's older tables.
    Legacy,
}

/// Chains like the reference's, which are there.
#[derive(Debug)]
pub(crate) struct Found {
    ipv4: bool,
    place: Place,
    chain: String,
}

impl Program {
    /// Whether the programs that an ADD uses are there.
    pub(crate) fn is_installed() -> bool {
        Self::of(true).is_ok()
    }

    /// What `iptables` is on this node.
    fn of(ipv4: bool) -> Result<Self, Error> {
        Self::named(&[if ipv4 { "iptables" } else { "ip6tables" }])
    }

    /// The one that sees the rules at `place`.
    fn at(place: Place, ipv4: bool) -> Result<Self, Error> {
        match (place, ipv4) {
            (Place::Nftables, true) => Self::named(&["iptables-nft", "iptables"]),
            (Place::Nftables, false) => Self::named(&["ip6tables-nft", "ip6tables"]),
            (Place::Legacy, true) => Self::named(&["iptables-legacy", "iptables"]),
            (Place::Legacy, false) => Self::named(&["ip6tables-legacy", "ip6tables"]),
        }
    }

    fn named(names: &[&str]) -> Result<Self, Error> {
        let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path)
            .chain(std::env::split_paths(USUAL_PLACES))
            .filter(|path| path.is_absolute())
            .collect();
        names
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
            .find(|path| path.is_file())
            .map(|path| Self { path })
            .ok_or_else(|| {
                let name = names.first().copied().unwrap_or_default();
                Error::new(Code::NOT_AVAILABLE, format!("the program {name} is not installed"))
                    .with_details("install iptables, or set ipMasqBackend to \"nftables\"")
            })
    }

    /// Runs it on the `nat` table, waiting for other programs that change it.
    fn output(&self, arguments: &[&str]) -> Result<Output, Error> {
        let cannot = |why: std::io::Error| Error::new(Code::IO, format!("run {}: {why}", self.path.display()));
        Command::new(&self.path).args(["-w", "-t", "nat"]).args(arguments).stdin(Stdio::null()).output().map_err(cannot)
    }

    /// Runs it; what it says goes into the error.
    fn run(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = self.output(arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(
            Code::INTERNAL,
            format!("{} -t nat {}: {}", self.path.display(), arguments.join(" "), said.trim()),
        ))
    }

    fn succeeds(&self, arguments: &[&str]) -> Result<bool, Error> {
        Ok(self.output(arguments)?.status.success())
    }

    fn has(&self, rule: &Rule) -> Result<bool, Error> {
        self.succeeds(&rule.arguments("-C"))
    }

    /// Adds rules to the `nat` table, after `new_chain` where that is to be made: all of it at once where the program's
    /// `-restore` is beside it, so that a process that is killed leaves no chain without a rule that tells whose it is.
    fn append(&self, new_chain: Option<&str>, rules: &[Rule]) -> Result<(), Error> {
        let Some(restore) = self.restore() else {
            if let Some(chain) = new_chain {
                self.run(&["-N", chain])?;
            }
            return rules.iter().try_for_each(|rule| self.run(&rule.arguments("-A")).map(drop));
        };
        let text = transaction(new_chain, rules);
        let cannot = |why: std::io::Error| Error::new(Code::IO, format!("run {}: {why}", restore.display()));
        let mut child = Command::new(&restore)
            .args(["-w", "--noflush"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        // What it does not read it has complained about.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(cannot)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(Code::INTERNAL, format!("{} with {text:?}: {}", restore.display(), said.trim())))
    }

    /// The program that takes a whole transaction, of the same make: others of that name may act on other tables.
    fn restore(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_str()?;
        Some(self.path.with_file_name(format!("{name}-restore"))).filter(|path| path.is_file())
    }
}

/// One of the three rules of an address.
struct Rule {
    chain: String,
    matches: Vec<String>,
    target: String,
    comment: String,
}

impl Rule {
    fn arguments(&self, action: &'static str) -> Vec<&str> {
        let mut arguments = vec![action, self.chain.as_str()];
        arguments.extend(self.matches.iter().map(String::as_str));
        arguments.extend(["-j", &self.target, "-m", "comment", "--comment", &self.comment]);
        arguments
    }
}

/// What `iptables-restore` reads.
fn transaction(new_chain: Option<&str>, rules: &[Rule]) -> String {
    let mut text = "*nat\n".to_owned();
    if let Some(chain) = new_chain {
        // Unlike `:chain` this is refused when somebody has made it meanwhile, and never empties it.
        text.extend(["-N ", chain, "\n"]);
    }
    for rule in rules {
        let words: Vec<String> = rule.arguments("-A").into_iter().map(quoted).collect();
        text.extend([words.join(" ").as_str(), "\n"]);
    }
    text + "COMMIT\n"
}

/// As `iptables-save` writes what has blanks or quotes in it.
fn quoted(word: &str) -> String {
    if !word.contains([' ', '"', '\\']) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The address' rules; the last is the one that leads into the chain.
fn rules(network: &str, container: &str, address: IpNetwork) -> [Rule; 3] {
    let chain = chain_name(network, container);
    let rule = |of: &str, matches: &[&str], target: &str| Rule {
        chain: of.to_owned(),
        matches: matches.iter().map(|&part| part.to_owned()).collect(),
        target: target.to_owned(),
        comment: comment(network, container),
    };
    let subnet = format!("{}/{}", address.network(), address.prefix());
    let multicast = if address.is_ipv4() { "224.0.0.0/4" } else { "ff00::/8" };
    [
        rule(&chain, &["-d", &subnet], "ACCEPT"),
        rule(&chain, &["!", "-d", multicast], "MASQUERADE"),
        rule(POSTROUTING, &["-s", &address.ip().to_string()], &chain),
    ]
}

/// Masquerades what comes from `addresses` and goes beyond their subnets.
pub(crate) fn add(network: &str, attachment: &Attachment, addresses: &[IpNetwork]) -> Result<(), Error> {
    let container = attachment.container_id.as_str();
    let chain = chain_name(network, container);
    let _lock = RulesLock::take()?;
    for address in addresses {
        let program = Program::of(address.is_ipv4())?;
        let is_new = !program.succeeds(&["-S", &chain])?;
        let mut missing = Vec::new();
        for rule in rules(network, container, *address) {
            // Nothing is in a chain that is not there, nor leads to it.
            if is_new || !program.has(&rule)? {
                missing.push(rule);
            }
        }
        if !missing.is_empty() {
            program.append(is_new.then_some(&chain), &missing)?;
        }
    }
    Ok(())
}

/// Whether the rules of `addresses` are there.
pub(crate) fn check(network: &str, attachment: &Attachment, addresses: &[IpNetwork]) -> Result<(), Error> {
    for address in addresses {
        let program = Program::of(address.is_ipv4())?;
        for rule in rules(network, attachment.container_id.as_str(), *address) {
            if !program.has(&rule)? {
                return Err(mismatch(format!(
                    "address {address} is not masqueraded: the rule of chain {} that leads to {} is not there",
                    rule.chain, rule.target
                )));
            }
        }
    }
    Ok(())
}

/// The chains of the attachment's container in its network. Runs no program where the kernel has none of the older tables.
///
/// A chain without rules, which an ADD left that was killed, is only found when the configuration still says `by_iptables`:
/// to list all chains takes long on a node with thousands of services.
pub(crate) fn find(
    nft: &Nftables,
    network: &str,
    attachment: &Attachment,
    by_iptables: bool,
) -> Result<Vec<Found>, Error> {
    let chain = chain_name(network, attachment.container_id.as_str());
    let mut found = Vec::new();
    for ipv4 in [true, false] {
        let table = nat(ipv4);
        let exists = if by_iptables {
            listed(nft, nft.chains(&table))?.contains(&chain)
        } else {
            !listed(nft, nft.rules(&table, Some(&chain)))?.is_empty()
        };
        if exists {
            found.push(Found { ipv4, place: Place::Nftables, chain: chain.clone() });
        }
        if has_legacy_nat(ipv4) {
            match Program::at(Place::Legacy, ipv4) {
                Ok(program) if program.succeeds(&["-S", &chain])? => {
                    found.push(Found { ipv4, place: Place::Legacy, chain: chain.clone() });
                }
                Ok(_) => {}
                // Whoever made that table has his own way to it; a DEL that fails for this would never succeed.
                Err(error) => tracing::warn!("cannot look for chain {chain} in the older nat table: {error}"),
            }
        }
    }
    Ok(found)
}

/// Removes the jumps of `addresses`, and the chains when no jump to them is left.
pub(crate) fn remove_addresses(
    nft: &Nftables,
    network: &str,
    attachment: &Attachment,
    found: &[Found],
    addresses: &[IpNetwork],
) -> Result<(), Error> {
    let remove = |found: &Found| {
        let program = Program::at(found.place, found.ipv4)?;
        for address in addresses.iter().filter(|address| address.is_ipv4() == found.ipv4) {
            let [_, _, jump] = rules(network, attachment.container_id.as_str(), *address);
            // Once more for each time that it is there; the reference's DEL of another interface may have taken it already.
            while program.succeeds(&jump.arguments("-D"))? {}
        }
        if jumps(&program.run(&["-S", POSTROUTING])?, &found.chain).is_empty() {
            remove_chain(nft, found)?;
        }
        Ok(())
    };
    collected(found.iter().filter_map(|found| remove(found).err()).collect())
}

/// Removes the chains and every jump to them.
pub(crate) fn remove_chains(nft: &Nftables, found: &[Found]) -> Result<(), Error> {
    collected(found.iter().filter_map(|found| remove_chain(nft, found).err()).collect())
}

/// Removes the chains of those containers in the network that are not among `valid`.
///
/// Chains of nf_tables and of the older tables are looked at by the programs, which alone can read their comments.
pub(crate) fn gc(nft: &Nftables, network: &str, valid: &BTreeSet<&str>) -> Result<(), Error> {
    let mut errors = Vec::new();
    for ipv4 in [true, false] {
        for place in [Place::Nftables, Place::Legacy] {
            let possible = match place {
                Place::Nftables => listed(nft, nft.chains(&nat(ipv4)))?.iter().any(|chain| is_chain_name(chain)),
                Place::Legacy => has_legacy_nat(ipv4),
            };
            if !possible {
                continue;
            }
            match Program::at(place, ipv4).and_then(|program| program.run(&["-S"])) {
                Ok(rules) => {
                    let stale = stale_chains(&rules, network, valid);
                    let found = stale.into_iter().map(|chain| Found { ipv4, place, chain }).collect::<Vec<_>>();
                    errors.extend(remove_chains(nft, &found).err());
                }
                Err(error) => errors.push(error),
            }
        }
    }
    collected(errors)
}

/// The chains of the network's containers that are not among `valid`, in the output of `iptables -S`.
fn stale_chains(rules: &str, network: &str, valid: &BTreeSet<&str>) -> BTreeSet<String> {
    let container = |line: &str| {
        let (_, comment) = line.split_once("--comment \"")?;
        let container = named_in(comment, network)?.to_owned();
        let chain = chain_name(network, &container);
        // Plugins that name their chains after something else are none of ours.
        let own = line.starts_with(&format!("-A {chain} ")) || line.ends_with(&format!(" -j {chain}"));
        (own && !valid.contains(container.as_str())).then_some(chain)
    };
    rules.lines().filter_map(container).collect()
}

fn remove_chain(nft: &Nftables, found: &Found) -> Result<(), Error> {
    match found.place {
        Place::Nftables => {
            let table = nat(found.ipv4);
            let mut batch = Batch::new();
            for rule in nft.rules(&table, Some(POSTROUTING)).map_err(net_error)? {
                if rule.jump.as_ref() == Some(&found.chain) {
                    batch.delete_rule(&table, POSTROUTING, rule.handle);
                }
            }
            batch.flush_chain(&table, &found.chain).delete_chain(&table, &found.chain);
            nft.apply(&batch).map_err(net_error)
        }
        Place::Legacy => {
            let program = Program::at(found.place, found.ipv4)?;
            for jump in jumps(&program.run(&["-S", POSTROUTING])?, &found.chain) {
                let arguments: Vec<&str> = jump.iter().map(String::as_str).collect();
                program.run(&arguments)?;
            }
            let removed = program.run(&["-F", &found.chain]).and_then(|_| program.run(&["-X", &found.chain]));
            match removed {
                Err(error) if program.succeeds(&["-S", &found.chain])? => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// The arguments that delete each rule which leads to `chain`, out of the output of `iptables -S`.
fn jumps(rules: &str, chain: &str) -> Vec<Vec<String>> {
    let target = format!(" -j {chain}");
    rules
        .lines()
        .filter(|line| line.ends_with(&target))
        .filter_map(|line| {
            let mut words = words(line);
            *words.first_mut()? = "-D".to_owned();
            Some(words)
        })
        .collect()
}

/// Splits a line of `iptables -S` as a shell would: double quotes keep blanks, a backslash keeps the next character.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

fn nat(ipv4: bool) -> Table {
    Table::new(if ipv4 { Family::Ipv4 } else { Family::Ipv6 }, "nat")
}

/// Whether the older `nat` table exists here. Asking the program would make it.
fn has_legacy_nat(ipv4: bool) -> bool {
    let path = if ipv4 { "/proc/thread-self/net/ip_tables_names" } else { "/proc/thread-self/net/ip6_tables_names" };
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "nat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = "CNI-fb748804e81d69c812345678";

    #[test]
    fn an_address_has_the_references_three_rules() {
        let lines: Vec<String> = rules("lan", "c1", "10.1.1.2/24".parse().unwrap())
            .iter()
            .map(|rule| rule.arguments("-A").join(" "))
            .collect();
        let chain = chain_name("lan", "c1");
        let comment = r#"-m comment --comment name: "lan" id: "c1""#;
        assert_eq!(
            lines,
            [
                format!("-A {chain} -d 10.1.1.0/24 -j ACCEPT {comment}"),
                format!("-A {chain} ! -d 224.0.0.0/4 -j MASQUERADE {comment}"),
                format!("-A POSTROUTING -s 10.1.1.2 -j {chain} {comment}"),
            ]
        );
        let ipv6 = rules("lan", "c1", "fd01::2/64".parse().unwrap());
        assert!(ipv6[1].arguments("-A").contains(&"ff00::/8"));
    }

    #[test]
    fn a_chain_comes_with_its_rules_and_with_quoted_comments() {
        let rules = rules("lan", "c1", "10.1.1.2/24".parse().unwrap());
        let text = transaction(Some(CHAIN), &rules[2..]);
        let jump = format!("-A POSTROUTING -s 10.1.1.2 -j {} -m comment --comment", chain_name("lan", "c1"));
        let comment = r#""name: \"lan\" id: \"c1\"""#;
        assert_eq!(text, format!("*nat\n-N {CHAIN}\n{jump} {comment}\nCOMMIT\n"));
        assert_eq!(words(text.lines().nth(2).unwrap()), rules[2].arguments("-A"));
        assert!(!transaction(None, &rules).contains("-N"));
    }

    #[test]
    fn a_jump_is_deleted_with_the_words_it_is_listed_with() {
        let listed = format!(
            "-P POSTROUTING ACCEPT\n\
             -A POSTROUTING -s 10.1.1.2/32 -m comment --comment \"name: \\\"lan\\\" id: \\\"c1\\\"\" -j {CHAIN}\n\
             -A POSTROUTING -s 10.1.1.3/32 -j {CHAIN}0\n"
        );
        let jumps = jumps(&listed, CHAIN);
        assert_eq!(jumps.len(), 1);
        assert_eq!(
            jumps[0],
            [
                "-D",
                "POSTROUTING",
                "-s",
                "10.1.1.2/32",
                "-m",
                "comment",
                "--comment",
                "name: \"lan\" id: \"c1\"",
                "-j",
                CHAIN
            ]
        );
    }

    #[test]
    fn words_are_split_as_by_a_shell() {
        assert_eq!(words(r#"a  "b c" d\ e "" "f\"g""#), ["a", "b c", "d e", "", "f\"g"]);
        assert_eq!(words(""), [""; 0]);
        assert_eq!(words("\"open"), ["open"]);
        assert_eq!(words("end\\"), ["end"]);
    }

    #[test]
    fn only_unlisted_containers_of_the_network_are_stale() {
        let jump = |network: &str, container: &str| {
            format!(
                "-A POSTROUTING -s 10.1.1.2/32 -m comment --comment \"name: \\\"{network}\\\" id: \\\"{container}\\\"\" -j {}\n",
                chain_name(network, container)
            )
        };
        let foreign = jump("lan", "c3").replace(&chain_name("lan", "c3"), "CNI-DN-0123456789abcdef0123");
        let listed = [jump("lan", "c1"), jump("lan", "c2"), jump("lan2", "c2"), foreign].concat();
        let stale = stale_chains(&listed, "lan", &BTreeSet::from(["c1"]));
        assert_eq!(stale, BTreeSet::from([chain_name("lan", "c2")]));
    }
}
