//! What the verbs say beforehand, and of the other end: STATUS of the node's room, ADD with `waitReady`, CHECK with `checkPeer`.

use std::thread;

use adit_integration::{
    disk::SmallDisk,
    trial,
    tunnels::{Below, Call, FIRST_POD, Family, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with},
};
use adit_lab::{Attachment, COMMAND_DEADLINE, LabSpec, eventually};
use libtest_mimic::Failed;
use serde_json::json;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("add_waits_until_its_peer_answers", add_waits),
        trial("add_that_waited_in_vain_names_the_leg_and_leaves_nothing", add_gives_up),
        trial("check_asks_for_the_peer_where_it_is_told_to", check_asks),
        trial("status_says_that_no_descriptor_or_no_room_is_left", status_knows),
        trial("both_ends_that_wait_for_each_other_are_ready", both_wait),
    ]);
}

fn add_waits() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    let patient = with(tun(outer(mumbai, Family::V4, FIRST_POD), "10.4.0.1/30"), &json!({ "waitReady": "30s" }));
    let nad = list("patient", &[net1(&lab, ohio), patient]);
    let plain = list("plain", &[net1(&lab, mumbai), tun(outer(ohio, Family::V4, FIRST_POD), "10.4.0.2/30")]);
    let [first, second] = thread::scope(|scope| {
        let first = scope.spawn(|| ohio.pod("patient").attach(nad, &annotation("patient", ohio, FIRST_POD)));
        // ADD is still at work when the other end comes: the agent carries the tunnel, and nobody answers.
        let waits = eventually("the first end to wait", COMMAND_DEADLINE, || {
            Ok((tunnels(ohio)?.first().map(|tunnel| tunnel["state"] == "waiting") == Some(true)).then_some(()))
        });
        let early = first.is_finished();
        let second = mumbai.pod("plain").attach(plain, &annotation("plain", mumbai, FIRST_POD));
        waits.map(|()| assert!(!early, "ADD came back without its peer"))?;
        Ok::<_, Failed>([first.join().map_err(|_| "the waiting ADD panicked")??, second?])
    })?;
    assert_eq!(tunnels(ohio)?[0]["state"], "up");
    first.ping("10.4.0.2")?.all_received()?;
    second.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn add_gives_up() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let below = Below::usual(&lab, lab.ohio(), "hurried")?;
    let remote = outer(lab.mumbai(), Family::V4, FIRST_POD);
    let hurried = with(tun(remote, "10.4.0.1/30"), &json!({ "waitReady": "300ms" }));
    let missing = format!("peer {remote}:6090 does not answer");
    let call = Call::tun(&below.pod)?;
    below.refuses(&call, &below.stdin(&hurried), 11, &["waitReady: not within 300ms", &missing])?;
    assert!(tunnels(lab.ohio())?.is_empty());
    Ok(())
}

fn check_asks() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    let asking = with(tun(outer(mumbai, Family::V4, FIRST_POD), "10.4.0.1/30"), &json!({ "checkPeer": true }));
    let nad = list("asking", &[net1(&lab, ohio), asking]);
    let first = ohio.pod("asking").attach(nad, &annotation("asking", ohio, FIRST_POD))?;
    let refused = first.check().err().ok_or("CHECK is content without a peer")?.to_string();
    assert!(refused.contains("does not answer"), "{refused}");
    let plain = list("plain", &[net1(&lab, mumbai), tun(outer(ohio, Family::V4, FIRST_POD), "10.4.0.2/30")]);
    let second = mumbai.pod("plain").attach(plain, &annotation("plain", mumbai, FIRST_POD))?;
    eventually("CHECK to find the peer", COMMAND_DEADLINE, || Ok(first.check().ok()))?;
    second.check()?;
    Ok(())
}

fn both_wait() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let wait = json!({ "waitReady": "30s" });
    let ends = [(lab.ohio(), lab.mumbai(), "10.4.0.1/30"), (lab.mumbai(), lab.ohio(), "10.4.0.2/30")];
    let pods = thread::scope(|scope| {
        let ends = ends.map(|(node, peer, inner)| {
            let tun = with(tun(outer(peer, Family::V4, FIRST_POD), inner), &wait);
            let nad = list("mutual", &[net1(&lab, node), tun]);
            scope.spawn(move || node.pod("mutual").attach(nad, &annotation("mutual", node, FIRST_POD)))
        });
        let joined = ends.map(|end| end.join().map_err(|_| Failed::from("ADD panicked")));
        joined.into_iter().map(|end| Ok(end??)).collect::<Result<Vec<_>, Failed>>()
    })?;
    pods[0].ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn status_knows() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    let below = Below::usual(&lab, ohio, "late")?;
    let (call, stdin) =
        (Call::tun(&below.pod)?, below.stdin(&tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")));
    call.run("STATUS", &stdin)?.ok()?;

    let pid = ohio.agent_pid().ok_or("no agent")?.to_string();
    let limit = |soft: &str| ohio.root(["prlimit", "--pid", &pid, &format!("--nofile={soft}:")])?.ok().map(drop);
    let held = ohio.agent_fds()?.all;
    // The connection and the directory are opened before the question is.
    limit(&(held + 3).to_string())?;
    call.fails("STATUS", &stdin, 50, &["no descriptors are left", "LimitNOFILE"])?;
    limit("4096")?;
    call.run("STATUS", &stdin)?.ok()?;

    let disk = SmallDisk::over(&ohio.run_dir().join("attachments"))?;
    disk.fill()?;
    call.fails("STATUS", &stdin, 50, &["attachments is full", "make room"])?;
    below.refuses(&call, &stdin, 999, &["attachments is full"])?;
    disk.free()?;
    call.run("STATUS", &stdin)?.ok()?;
    below.add(&tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30"))?;
    Ok(())
}
