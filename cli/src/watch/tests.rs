use super::*;
use crate::table::tests::tunnel;

fn seen(tunnels: Vec<TunnelStatus>) -> Seen {
    Seen { tunnels, agent: Ok(()), needs_agent: true, unreadable: vec![], is_partial: false }
}

fn away() -> Seen {
    let source = io::Error::from(io::ErrorKind::ConnectionRefused);
    let agent = Err(adit_tunnel::Error::AgentUnreachable { socket: "/run/adit/agent.sock".into(), source });
    Seen { tunnels: vec![], agent, needs_agent: true, unreadable: vec![], is_partial: false }
}

/// Looks at 04:00:00Z and each second after it.
fn looks(looks: impl IntoIterator<Item = Seen>) -> Vec<(String, Value)> {
    let mut watch = Watch::default();
    let (time, moment) = (UNIX_EPOCH.checked_add(Duration::from_secs(14_400)).unwrap(), Instant::now());
    let add = |(second, seen): (u64, Seen)| {
        let passed = Duration::from_secs(second);
        watch.add(seen, time.checked_add(passed).unwrap(), moment.checked_add(passed).unwrap());
        (watch.block(), watch.document())
    };
    (0..).zip(looks).map(add).collect()
}

#[test]
fn an_agent_that_is_away_is_waited_for_and_greeted() {
    let told = looks([seen(vec![tunnel()]), away(), away(), seen(vec![tunnel()]), seen(vec![tunnel()])]);
    let expect = |index: usize, expected: &str| assert!(told[index].0.contains(expected), "{}", told[index].0);
    expect(0, "04:00:00Z\n POD");
    expect(1, "the agent does not answer; waiting since 04:00:01Z (0 ms): cannot reach the agent");
    expect(1, "\n04:00:01Z the agent does not answer\n");
    expect(2, "waiting since 04:00:01Z (1 s)");
    assert!(!told[2].0.contains("POD") && !told[2].0.contains("is gone"), "{}", told[2].0);
    expect(3, "04:00:03Z the agent answers again, as it has not since 04:00:01Z");
    assert!(told[3].0.contains(" -  "), "rates are known from the second look on: {}", told[3].0);
    expect(4, "0 B/s in 0/s");
    assert_eq!(told[1].1["agentAnswers"], false);
    assert_eq!(told[4].1["tunnels"][0]["peers"][0]["perSecond"]["rxBytes"], 0);
    assert_eq!(told[3].1["tunnels"][0]["peers"][0].get("perSecond"), None);
    assert_eq!(told[3].1["unixSeconds"], 14_403.0);
}

#[test]
fn a_change_of_state_stands_in_its_own_block_with_its_time() {
    let mut down = tunnel();
    (down.carried, down.reason) = (false, "port 6090 is taken".into());
    let told = looks([seen(vec![tunnel()]), seen(vec![down.clone()]), seen(vec![down])]);
    let change = "04:00:01Z default/plumbr-a tun: 10.20.1.200:6090 was up, is down: port 6090 is taken";
    assert!(told[1].0.ends_with(&format!("{change}\n\n")), "{}", told[1].0);
    assert_eq!(told[1].1["changes"], json!([change]));
    assert!(!told[2].0.contains("was up"), "{}", told[2].0);
}

#[test]
fn a_terminal_shows_what_it_has_room_for() {
    assert_eq!(fit("a\nbcd\n", 10, 2), "\x1b[Ha\x1b[K\nbc\x1b[K\n\x1b[J");
    assert_eq!(fit("a\nb\nc\nd\n", 4, 80), "\x1b[Ha\x1b[K\nb\x1b[K\nand 2 lines more\x1b[K\n\x1b[J");
    assert_eq!(fit("a\x1b[31mb\n", 4, 80), "\x1b[Ha[31mb\x1b[K\n\x1b[J", "names steer no terminal");
}
