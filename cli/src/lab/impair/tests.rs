use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    impair: Impair,
}

fn read(line: &str) -> Result<Impair, String> {
    let words = std::iter::once("impair").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.impair).map_err(|error| error.to_string())
}

#[test]
fn one_value_is_for_both_directions_and_two_are_for_one_each() {
    let impair =
        read("--between a b --delay 100ms --loss 2% --loss none --rate 30mbit --queue 50ms --mtu 1400").unwrap();
    let [there, back] = [impair.spec(0).unwrap(), impair.spec(1).unwrap()];
    assert_eq!((there.delay, back.delay), (Duration::from_millis(100), Duration::from_millis(100)));
    assert!(matches!((there.loss, back.loss), (Loss::Random(_), Loss::None)));
    assert_eq!(back.bottleneck.unwrap().queue, Limit::Time(Duration::from_millis(50)));
    assert_eq!((there.mtu_bytes, back.mtu_bytes), (Some(1400), Some(1400)));
}

#[test]
fn three_values_are_an_error_that_names_the_option() {
    let impair = read("--between a b --loss 1% --loss 2% --loss 3%").unwrap();
    assert!(impair.spec(0).unwrap_err().starts_with("--loss was given 3 times"));
}

#[test]
fn options_that_need_each_other_are_asked_for() {
    for (line, word) in [
        ("--loss 2%", "--between"),
        ("--between a b --queue 100ms", "--rate"),
        ("--between a", "2 values"),
        ("--between a b --udp 127.0.0.1:1=127.0.0.1:2", "cannot be used with"),
        ("--udp 127.0.0.1:1=127.0.0.1:2 --rate 1mbit --ecn 5ms", "cannot be used with"),
        ("--udp 127.0.0.1:1", "LISTEN=TARGET"),
        ("--between a b --delay 100", "write a number with ns, us, ms or s"),
        ("--between a b --loss rain:3", "every:N:K"),
    ] {
        let error = read(line).unwrap_err();
        assert!(error.contains(word), "{line}: {error}");
    }
}

#[test]
fn what_is_told_names_what_happened_and_nothing_else() {
    let impair = read("--between a b").unwrap();
    let mut there = Statistics::default();
    there.offered.packets = 100;
    there.delivered.packets = 98;
    there.dropped.loss = 2;
    there.loss_runs.insert(2, 1);
    let text = impair.told(Duration::from_secs(3), None, &[there.clone(), Statistics::default()]);
    let expected = "3.0 s\n  there: 98 of 100 packets given on, 2 lost (2.00 %, runs of 2.0); late by 0 us at most\n";
    assert!(text.starts_with(expected), "{text}");

    let json = document(Duration::from_secs(3), Some("no"), [&there, &Statistics::default()]);
    assert_eq!(json["there"]["dropped"]["loss"], 2);
    assert_eq!(json["there"]["lossRuns"]["2"], 1);
    assert_eq!((&json["realtime"], &json["there"]["lossShare"]), (&false.into(), &0.02.into()));
}
