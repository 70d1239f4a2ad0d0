use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A packet that can be told from the others, of `wire_bytes` on the link.
fn numbered(number: usize, wire_bytes: usize) -> Packet {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(wire_bytes.checked_sub(42).unwrap(), 0);
    Packet::payload(bytes, false)
}

/// When the n-th of packets that are sent `apart` is sent.
fn nth(apart: Duration, number: usize) -> Duration {
    apart.checked_mul(number.try_into().unwrap()).unwrap()
}

fn number_of(packet: &Packet) -> usize {
    usize::from_be_bytes(*packet.bytes().first_chunk().unwrap())
}

/// What arrives when and as which number, of `count` packets of 1,000 bytes that are sent `apart`.
fn run(link: &mut Link, count: usize, apart: Duration) -> Vec<(Duration, usize)> {
    run_of(link, (0..count).map(|number| (nth(apart, number), numbered(number, 1000))))
}

fn run_of(link: &mut Link, packets: impl IntoIterator<Item = (Duration, Packet)>) -> Vec<(Duration, usize)> {
    let mut arrived = Vec::new();
    let mut packets = packets.into_iter().peekable();
    loop {
        let coming = packets.peek().map(|(at, _)| *at);
        match (coming, link.next_due()) {
            (None, None) => return arrived,
            (Some(at), due) if due.is_none_or(|due| at <= due) => {
                let (at, packet) = packets.next().unwrap();
                link.offer(at, packet);
            }
            (_, due) => {
                let now = due.unwrap();
                arrived.extend(std::iter::from_fn(|| link.take(now)).map(|packet| (now, number_of(&packet))));
            }
        }
    }
}

fn lossy(loss: &str) -> Spec {
    Spec { loss: loss.parse().unwrap(), ..Spec::default() }
}

fn narrow(mbit: u64, queue: Limit, ecn: Option<Limit>) -> Spec {
    let bits_per_second = bits_per_second(&format!("{mbit}mbit")).unwrap();
    Spec { bottleneck: Some(Bottleneck { bits_per_second, queue, ecn }), ..Spec::default() }
}

/// Five standard deviations of a binomial share.
fn tolerance(share: f64, count: usize) -> f64 {
    5.0 * (share * (1.0 - share) / count as f64).sqrt()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[test]
fn a_perfect_link_gives_everything_on_at_once_and_in_order() {
    let mut link = Link::new(Spec::default(), 1);
    let arrived = run(&mut link, 1000, MS);
    assert!(arrived.iter().enumerate().all(|(n, (at, number))| n == *number && *at == MS * u32::try_from(n).unwrap()));
    let told = link.statistics();
    assert_eq!(told.offered, Count { packets: 1000, bytes: 1_000_000 });
    assert_eq!((told.delivered, told.dropped, told.late_max_us), (told.offered, Dropped::default(), 0));
}

#[test]
fn random_loss_has_its_share_and_no_memory() {
    for share in [0.01, 0.02, 0.05] {
        let mut link = Link::new(lossy(&share.to_string()), 7);
        let count = 200_000;
        let arrived = run(&mut link, count, MS);
        let told = link.statistics();
        assert_eq!(told.delivered.packets, arrived.len() as u64);
        assert!((told.loss_share() - share).abs() < tolerance(share, count), "{}", told.loss_share());
        // Runs are geometric: one packet is followed by another lost one as often as any.
        assert!((told.loss_run_mean() - 1.0 / (1.0 - share)).abs() < 0.03, "{}", told.loss_run_mean());
    }
}

#[test]
fn gilbert_and_elliott_lose_in_bursts_of_the_right_length() {
    let mut link = Link::new(lossy("ge:0.00408,0.2"), 7);
    run(&mut link, 1_000_000, MS);
    let told = link.statistics();
    assert!((told.loss_share() - 0.02).abs() < 0.0015, "{}", told.loss_share());
    assert!((told.loss_run_mean() - 5.0).abs() < 0.3, "{}", told.loss_run_mean());
    assert_eq!(told.loss_runs.iter().map(|(length, count)| length * count).sum::<u64>(), told.dropped.loss);

    // Half of the packets of a bad state, and one of a thousand of a good one.
    let mut link = Link::new(lossy("ge:0.1,0.1,0.5,0.999"), 7);
    run(&mut link, 500_000, MS);
    assert!((link.statistics().loss_share() - 0.2505).abs() < 0.01, "{}", link.statistics().loss_share());
}

#[test]
fn a_pattern_loses_the_last_ones_of_each_period_exactly() {
    let mut link = Link::new(lossy("every:200:4"), 7);
    let arrived = run(&mut link, 20_000, MS);
    assert_eq!(arrived.len(), 19_600);
    assert!(arrived.iter().all(|(_, number)| number % 200 < 196));
    let told = link.statistics();
    assert_eq!(told.loss_runs.into_iter().collect::<Vec<_>>(), [(4, 100)]);
}

#[test]
fn a_trace_is_followed_to_the_letter_and_begins_again() {
    let file = std::env::temp_dir().join(format!("adit-lab-trace-{}", std::process::id()));
    std::fs::write(&file, "0 1 1\n0 0\n").unwrap();
    let loss = Loss::trace(&file);
    std::fs::write(&file, "0 2").unwrap();
    let wrong = Loss::trace(&file).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    assert!(wrong.contains("0 and 1 are possible"), "{wrong}");
    let mut link = Link::new(Spec { loss: loss.unwrap(), ..Spec::default() }, 7);
    let arrived: Vec<usize> = run(&mut link, 10, MS).into_iter().map(|(_, number)| number).collect();
    assert_eq!(arrived, [0, 3, 4, 5, 8, 9]);
}

#[test]
fn a_run_of_losses_that_has_not_ended_is_told() {
    let mut link = Link::new(lossy("every:5:2"), 7);
    run(&mut link, 5, MS);
    assert_eq!(link.statistics().loss_runs.into_iter().collect::<Vec<_>>(), [(2, 1)]);
}

#[test]
fn the_same_seed_gives_the_same_fate_and_another_one_another() {
    let spec = Spec {
        loss: "ge:0.01,0.3".parse().unwrap(),
        jitter: "3ms:normal".parse().unwrap(),
        reorder: "2%:9ms".parse().unwrap(),
        duplicate: "1%".parse().unwrap(),
        delay: 20 * MS,
        ..Spec::default()
    };
    let fate = |seed| run(&mut Link::new(spec.clone(), seed), 5000, MS);
    assert_eq!(fate(1), fate(1));
    assert_ne!(fate(1), fate(2));
}

#[test]
fn losses_do_not_move_when_something_else_is_added() {
    let lost = |spec: Spec| {
        let mut numbers: Vec<usize> =
            run(&mut Link::new(spec, 3), 5000, MS).into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let more = Spec { jitter: "3ms".parse().unwrap(), duplicate: "5%".parse().unwrap(), ..lossy("3%") };
    assert_eq!(lost(lossy("3%")), lost(more));
}

#[test]
fn every_packet_takes_the_delay() {
    let mut link = Link::new(Spec { delay: 25 * MS, ..Spec::default() }, 1);
    let arrived = run(&mut link, 100, MS / 7);
    assert!(arrived.iter().all(|(at, number)| *at == 25 * MS + MS / 7 * u32::try_from(*number).unwrap()));
}

#[test]
fn jitter_has_its_distribution_and_keeps_the_order() {
    for (text, expected_mean, expected_deviation) in
        [("6ms:uniform", 50.0, 6.0 / 3_f64.sqrt()), ("6ms:normal", 50.0, 6.0), ("6ms:exponential", 56.0, 6.0)]
    {
        let spec = Spec { delay: 50 * MS, jitter: text.parse().unwrap(), ..Spec::default() };
        // Further apart than the jitter reaches, so that none waits for another.
        let arrived = run(&mut Link::new(spec.clone(), 5), 20_000, 100 * MS);
        let took: Vec<f64> = arrived
            .iter()
            .map(|(at, number)| (*at - 100 * MS * u32::try_from(*number).unwrap()).as_secs_f64() * 1e3)
            .collect();
        let middle = mean(took.iter().copied());
        let deviation = mean(took.iter().map(|took| (took - middle).powi(2))).sqrt();
        assert!((middle - expected_mean).abs() < 0.25, "{text}: mean {middle} ms");
        assert!((deviation - expected_deviation).abs() < 0.25, "{text}: deviation {deviation} ms");

        let arrived = run(&mut Link::new(spec, 5), 20_000, MS);
        assert!(arrived.is_sorted(), "{text}");
    }
}

#[test]
fn a_jitter_wider_than_the_delay_never_gives_a_packet_before_it_came() {
    let spec = Spec { delay: MS, jitter: "5ms:normal".parse().unwrap(), ..Spec::default() };
    let arrived = run(&mut Link::new(spec, 5), 5000, 50 * MS);
    assert!(arrived.iter().all(|(at, number)| *at >= 50 * MS * u32::try_from(*number).unwrap()));
}

#[test]
fn the_rate_is_kept_and_the_queue_holds_what_it_may() {
    // 10 Mb/s takes 1,250 packets of 1,000 bytes a second; twice that is offered.
    let mut link = Link::new(narrow(10, Limit::Time(100 * MS), None), 1);
    let arrived = run(&mut link, 25_000, MS * 2 / 5);
    let told = link.statistics();
    let last = arrived.last().unwrap().0.as_secs_f64();
    assert!((arrived.len() as f64 / last - 1250.0).abs() < 0.5, "{} in {last} s", arrived.len());
    assert_eq!(told.dropped.queue + told.delivered.packets, 25_000);
    assert!((98_000..=100_000).contains(&told.queue_wait_max_us), "{}", told.queue_wait_max_us);
    assert!((80_000..=100_000).contains(&told.queue_wait_mean_us), "{}", told.queue_wait_mean_us);
    // Each packet passes 0.8 ms after the one before.
    assert!(arrived.windows(2).all(|pair| pair[1].0 - pair[0].0 == Duration::from_micros(800)));
}

#[test]
fn a_queue_in_bytes_is_the_same_as_one_in_time() {
    let dropped = |queue| {
        let mut link = Link::new(narrow(10, queue, None), 1);
        run(&mut link, 5000, MS * 2 / 5);
        link.statistics().dropped.queue
    };
    assert_eq!(dropped(Limit::Bytes(125_000)), dropped(Limit::Time(100 * MS)));
    assert!(dropped(Limit::Bytes(12_500)) > dropped(Limit::Bytes(125_000)));
}

#[test]
fn without_any_queue_a_free_line_still_takes_a_packet() {
    let mut link = Link::new(narrow(10, Limit::Bytes(0), None), 1);
    // Every third one finds the line free: 0.8 ms a packet, one each 0.4 ms, and the one at its very end is in time.
    assert_eq!(run(&mut link, 3000, MS * 2 / 5).len(), 1500);
}

#[test]
fn packets_that_allow_it_are_marked_from_the_threshold_on() {
    let mut link = Link::new(narrow(10, Limit::Time(100 * MS), Some(Limit::Time(20 * MS))), 1);
    let frame = |ecn: u8| {
        let mut bytes = vec![0; 1000];
        bytes[12..16].copy_from_slice(&[0x08, 0x00, 0x45, ecn]);
        Packet::ethernet(bytes)
    };
    // All come at once, so that the n-th waits for n times 0.8 ms; the 25th for 20 ms.
    for number in 0..100 {
        link.offer(Duration::ZERO, frame(if number % 2 == 0 { 2 } else { 0 }));
    }
    let marked: Vec<bool> = std::iter::from_fn(|| link.take(MS * 1000)).map(|packet| packet.ecn() == Some(3)).collect();
    assert_eq!(marked.len(), 100);
    assert!(marked.iter().enumerate().all(|(number, is_marked)| *is_marked == (number >= 25 && number % 2 == 0)));
    assert_eq!(link.statistics().ce_marked, 37);
}

#[test]
fn held_back_packets_are_overtaken() {
    let spec = Spec { delay: 10 * MS, reorder: "5%:4ms".parse().unwrap(), ..Spec::default() };
    let mut link = Link::new(spec, 9);
    let arrived = run(&mut link, 20_000, MS);
    let told = link.statistics();
    assert_eq!(arrived.len(), 20_000);
    assert!((told.reordered as f64 / 20_000.0 - 0.05).abs() < tolerance(0.05, 20_000), "{}", told.reordered);
    let late = arrived.iter().filter(|(at, number)| *at - MS * u32::try_from(*number).unwrap() == 14 * MS).count();
    assert_eq!(late as u64, told.reordered);
    assert!(!arrived.iter().map(|(_, number)| number).is_sorted());
}

#[test]
fn duplicates_are_two_of_the_same() {
    let mut link = Link::new(Spec { duplicate: "10%".parse().unwrap(), ..Spec::default() }, 9);
    let arrived = run(&mut link, 10_000, MS);
    let told = link.statistics();
    assert_eq!(arrived.len() as u64, 10_000 + told.duplicated);
    assert!((told.duplicated as f64 / 10_000.0 - 0.1).abs() < tolerance(0.1, 10_000));
    let twice = arrived.windows(2).filter(|pair| pair[0].1 == pair[1].1).count();
    assert_eq!(twice as u64, told.duplicated);
}

#[test]
fn corrupted_packets_differ_in_one_bit() {
    let mut link = Link::new(Spec { corrupt: "10%".parse().unwrap(), ..Spec::default() }, 9);
    let sent = Packet::payload(vec![0; 900], false);
    for _ in 0..10_000 {
        link.offer(Duration::ZERO, sent.clone());
    }
    let ones: Vec<u32> = std::iter::from_fn(|| link.take(MS))
        .map(|packet| packet.bytes().iter().map(|byte| byte.count_ones()).sum())
        .collect();
    assert!(ones.iter().all(|ones| *ones <= 1));
    assert_eq!(ones.iter().map(|ones| u64::from(*ones)).sum::<u64>(), link.statistics().corrupted);
    assert!((link.statistics().corrupted as f64 / 10_000.0 - 0.1).abs() < tolerance(0.1, 10_000));
}

#[test]
fn packets_beyond_the_mtu_are_dropped_and_not_counted_as_lost() {
    let mut link = Link::new(Spec { mtu_bytes: Some(986), ..lossy("every:2:1") }, 9);
    let sizes = [1000, 1001, 1000, 1002].into_iter().enumerate();
    let arrived = run_of(&mut link, sizes.map(|(number, size)| (MS, numbered(number, size))));
    assert_eq!(arrived, [(MS, 0)]);
    assert_eq!(link.statistics().dropped, Dropped { loss: 1, queue: 0, mtu: 2 });
    assert!((link.statistics().loss_share() - 0.5).abs() < f64::EPSILON);
}

#[test]
fn what_the_link_needs_itself_passes_at_once_and_is_not_counted() {
    let spec = Spec { delay: 50 * MS, ..lossy("100%") };
    let mut link = Link::new(spec, 9);
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    link.offer(MS, Packet::ethernet(arp.clone()));
    assert_eq!(link.take(MS).map(|packet| packet.bytes().to_vec()), Some(arp));
    assert_eq!((link.statistics().exempt, link.statistics().offered.packets), (1, 0));
}

#[test]
fn a_changed_link_lets_arrive_what_is_on_its_way() {
    let mut link = Link::new(Spec { delay: 50 * MS, ..Spec::default() }, 9);
    link.offer(Duration::ZERO, numbered(1, 1000));
    link.change(lossy("100%"), 9);
    link.offer(MS, numbered(2, 1000));
    assert_eq!(link.next_due(), Some(50 * MS));
    assert_eq!(link.take(50 * MS).map(|packet| number_of(&packet)), Some(1));
    assert_eq!(link.next_due(), None);
    assert_eq!((link.statistics().delivered.packets, link.statistics().dropped.loss), (1, 1));
}

#[test]
fn lateness_is_that_of_the_latest() {
    let mut link = Link::new(Spec { delay: MS, ..Spec::default() }, 9);
    link.offer(Duration::ZERO, numbered(1, 1000));
    assert_eq!(link.take(MS / 2), None);
    assert!(link.take(MS * 3).is_some());
    assert_eq!(link.statistics().late_max_us, 2000);
}

#[test]
fn datagrams_are_carried_there_and_back() {
    use std::net::UdpSocket;

    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&target, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    let specs = [lossy("every:2:1"), Spec { delay: 5 * MS, ..Spec::default() }];
    let listen = "127.0.0.1:0".parse().unwrap();
    let impairment = Impairment::of_datagrams(listen, target.local_addr().unwrap(), specs, 1).unwrap();
    let mut buffer = [0; 64];
    for number in 0..10_u8 {
        client.send_to(&[number], impairment.listens_at().unwrap()).unwrap();
        if number % 2 == 0 {
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [number]);
            target.send_to(&[number, number], from).unwrap();
            let (length, _) = client.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [number, number]);
        }
    }
    // The last one was sent, and never arrives.
    crate::eventually("the last datagram to be lost", Duration::from_secs(10), || {
        Ok((impairment.statistics()[0].dropped.loss == 5).then_some(()))
    })
    .unwrap();
    let [there, back] = impairment.stop().unwrap();
    assert_eq!((there.offered.packets, there.delivered.packets, back.delivered.packets), (10, 5, 5));
}
