//! What is scraped is the sum of all writers, also of those that are gone.

use super::*;

#[test]
fn threads_are_summed_and_outlived() {
    let mut registry = Registry::default();
    let requests: Family<Counter> = Family::register(&mut registry, "x_requests", "Requests", &["revision"]);
    let open: Family<Gauge> = Family::register(&mut registry, "x_open", "Open", &[]);
    let took: Family<Histogram> = Family::register(&mut registry, "x_seconds", "Took", &["a", "b"]);
    let (mine, other) = (requests.handle(&["r1"]), requests.handle(&["r1"]));
    mine.inc();
    other.add(2);
    drop(other);
    let (gauge, gone) = (open.handle(&[]), open.handle(&[]));
    gauge.add(5);
    gauge.add(-2);
    gone.add(40);
    drop(gone);
    let histogram = took.handle(&["1", "2"]);
    histogram.observe(Duration::from_millis(3));
    histogram.observe(Duration::from_secs(1000));
    drop(histogram);
    for _ in 0..2 {
        let text = text(&registry);
        for line in [
            "# TYPE x_requests counter",
            "x_requests_total{revision=\"r1\"} 3",
            "x_open 3",
            "x_seconds_sum{a=\"1\",b=\"2\"} 1000.003",
            "x_seconds_count{a=\"1\",b=\"2\"} 2",
            "x_seconds_bucket{le=\"0.0025\",a=\"1\",b=\"2\"} 0",
            "x_seconds_bucket{le=\"0.005\",a=\"1\",b=\"2\"} 1",
            "x_seconds_bucket{le=\"300.0\",a=\"1\",b=\"2\"} 1",
            "x_seconds_bucket{le=\"+Inf\",a=\"1\",b=\"2\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
    }
    drop(gauge);
    assert!(!text(&registry).contains("x_open"), "a gauge goes with its writer");
}

#[test]
fn label_sets_are_bounded() {
    let family: Family<Counter> = Family::register(&mut Registry::default(), "x", "x", &["a"]);
    for i in 0..MAX_SERIES + 100 {
        family.handle(&[&i.to_string()]).inc();
    }
    let other = family.0.lock().get(&vec!["other".to_owned()]).map(|series| series.past.get());
    assert!(other.is_some_and(|n| n >= 99), "{other:?}");
    assert!(family.0.lock().len() <= MAX_SERIES + 1);
    family.retain(|_| false);
    assert!(family.0.lock().is_empty());
}
