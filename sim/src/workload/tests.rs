use super::*;
use crate::document::Document;
use crate::error::Result;
use crate::units::SimTime;
use std::path::Path;

pub(super) fn generator_at(yaml: &str, seed: u64, folder: &Path) -> Result<WorkloadGenerator> {
    #[derive(serde::Deserialize)]
    struct Scenario {
        workload: WorkloadSpec,
    }
    let document = Document::parse("s.yaml", yaml)?;
    let scenario: Scenario = document.resolve()?;
    WorkloadGenerator::new(&scenario.workload, seed, folder, &|key, message| document.error(key, message))
}

/// The generator of a `workload:` section in flow style.
pub(super) fn generator(section: &str, seed: u64) -> WorkloadGenerator {
    generator_at(&format!("workload: {{{section}}}"), seed, Path::new("")).unwrap()
}

pub(super) fn drain(mut generator: WorkloadGenerator) -> Vec<Arrival> {
    std::iter::from_fn(|| generator.next()).collect()
}

pub(super) const LENGTHS: &str =
    "prompt: {lognormal: {median: 512, sigma: 0.9, max: 8192}}, output: {constant: 128}";

fn times(arrivals: &str, requests: u64, seed: u64) -> Vec<u64> {
    let section = format!("requests: {requests}, arrivals: {arrivals}, {LENGTHS}");
    drain(generator(&section, seed)).iter().map(|arrival| arrival.at.0).collect()
}

/// Mean in seconds, and coefficient of variation, of the gaps; the first counts from 0.
fn gaps(times: &[u64]) -> (f64, f64) {
    let gaps: Vec<f64> = std::iter::once(times[0])
        .chain(times.windows(2).map(|w| w[1] - w[0]))
        .map(|ns| ns as f64 / 1e9)
        .collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[test]
fn paced_arrivals_have_their_rate_and_burstiness() {
    assert_eq!(times("{constant: 4/s}", 3, 1), [250_000_000, 500_000_000, 750_000_000]);
    for (arrivals, cv) in [
        ("{poisson: 12/s}", 1.0),
        ("{gamma: {rate: 12/s, cv: 0.5}}", 0.5),
        ("{gamma: {rate: 12/s, cv: 1.09}}", 1.09),
        ("{gamma: {rate: 12/s, cv: 3.0}}", 3.0),
    ] {
        let (mean, found) = gaps(&times(arrivals, 100_000, 5));
        // Four standard errors of the mean of 100,000 gaps.
        assert!((mean * 12.0 - 1.0).abs() < 4.0 * cv / 316.0, "{arrivals}: mean {mean}");
        assert!((found / cv - 1.0).abs() < 0.04, "{arrivals}: cv {found}");
    }
}

#[test]
fn twice_the_rate_halves_every_time() {
    for (slow, fast) in [
        ("{poisson: 3/s}", "{poisson: 6/s}"),
        ("{gamma: {rate: 3/s, cv: 2.0}}", "{gamma: {rate: 6/s, cv: 2.0}}"),
    ] {
        let (slow, fast) = (times(slow, 1000, 9), times(fast, 1000, 9));
        assert!(slow.iter().zip(&fast).all(|(slow, fast)| slow.abs_diff(2 * fast) <= 1));
        assert!(slow.is_sorted());
    }
}

#[test]
fn another_rate_sends_the_same_requests_at_scaled_times() {
    // A paced process with another rate is the one that has this rate from the start.
    let section =
        |rate: &str| format!("requests: 50, arrivals: {{gamma: {{rate: {rate}, cv: 2.0}}}}, {LENGTHS}");
    let mut changed = generator(&section("3/s"), 5);
    assert!(changed.set_rate(7.5));
    assert_eq!(drain(changed), drain(generator(&section("7.5/s"), 5)));
    // Three rows over 4 s are 0.5/s; at 2/s every time is a quarter.
    let known = |times: [u64; 3]| -> Vec<Arrival> {
        let arrival = |(session, at): (u32, u64)| Arrival {
            at: SimTime(at),
            prompt_tokens: 3,
            output_tokens: 2,
            session,
            ..Arrival::default()
        };
        (0..).zip(times).map(arrival).collect()
    };
    let mut trace = WorkloadGenerator::from_arrivals(known([0, 1_000_000_000, 4_000_000_000]));
    assert_eq!(trace.mean_rate(), Some(0.5));
    assert!(trace.set_rate(2.0) && trace.mean_rate() == Some(2.0));
    assert_eq!(drain(trace), known([0, 250_000_000, 1_000_000_000]));
    for arrivals in ["{burst: {size: 4}}", "{closed_loop: {clients: 4}}"] {
        let mut without = generator(&format!("requests: 4, arrivals: {arrivals}, {LENGTHS}"), 1);
        assert!(without.mean_rate().is_none() && !without.set_rate(3.0));
    }
}

#[test]
fn seeds_repeat_and_purposes_are_apart() {
    let section =
        |arrivals: &str, more: &str| format!("requests: 200, arrivals: {arrivals}, {LENGTHS}{more}");
    let poisson = drain(generator(&section("{poisson: 5/s}", ""), 1));
    assert_eq!(poisson, drain(generator(&section("{poisson: 5/s}", ""), 1)));
    assert_ne!(poisson, drain(generator(&section("{poisson: 5/s}", ""), 2)));
    // Other arrivals and a shared prefix leave the prompt lengths as they are.
    let other =
        drain(generator(&section("{burst: {size: 200}}", ", shared_prefix: {prompts: 3, tokens: 1000}"), 1));
    let own = |arrivals: &[Arrival], prefix| -> Vec<u32> {
        arrivals.iter().map(|arrival| arrival.prompt_tokens - prefix).collect()
    };
    assert_eq!(own(&poisson, 0), own(&other, 1000));
}

#[test]
fn a_copy_repeats_the_same_requests() {
    let mut first = generator(&format!("requests: 20, arrivals: {{poisson: 5/s}}, {LENGTHS}"), 1);
    first.next();
    assert_eq!(drain(first.clone()), drain(first));
}

#[test]
fn known_arrivals_come_back_in_order() {
    let mut known = drain(generator(&format!("requests: 20, arrivals: {{poisson: 5/s}}, {LENGTHS}"), 1));
    let expected = known.clone();
    known.reverse();
    assert_eq!(drain(WorkloadGenerator::from_arrivals(known)), expected);
}

#[test]
fn bursts_come_in_groups() {
    assert_eq!(
        times("{burst: {size: 3, every: 10s}}", 7, 1),
        [0, 0, 0, 10, 10, 10, 20].map(|s| s * 1_000_000_000)
    );
    let single = generator(&format!("arrivals: {{burst: {{size: 3}}}}, {LENGTHS}"), 1);
    assert_eq!(single.request_limit(), Some(3));
    assert_eq!(drain(single).len(), 3);
}

#[test]
fn duration_and_requests_end_a_run() {
    let section = |ends: &str| format!("{ends}, arrivals: {{constant: 10/s}}, {LENGTHS}");
    // The request at exactly 1 s does not arrive.
    let timed = generator(&section("duration: 1s"), 1);
    assert_eq!(timed.request_limit(), None);
    assert_eq!(drain(timed).len(), 9);
    assert_eq!(drain(generator(&section("duration: 1s, requests: 4"), 1)).len(), 4);
    assert_eq!(drain(generator(&section("duration: 1s, requests: 40"), 1)).len(), 9);
}

#[test]
fn a_closed_loop_keeps_its_clients() {
    let section = format!("requests: 50, arrivals: {{closed_loop: {{clients: 4, think: 2s}}}}, {LENGTHS}");
    let mut clients = generator(&section, 1);
    let (mut outstanding, mut now, mut arrived) = (std::collections::VecDeque::new(), SimTime::ZERO, 0);
    while !clients.is_exhausted() || !outstanding.is_empty() {
        let due = clients.next_at().filter(|at| outstanding.front().is_none_or(|(end, _)| at <= end));
        if due.is_some() {
            let arrival = clients.next().unwrap();
            assert!(arrival.at >= now);
            now = arrival.at;
            arrived += 1;
            outstanding.push_back((SimTime(now.0 + 3_000_000_000), arrival.origin()));
            assert!(outstanding.len() <= 4);
        } else {
            let (end, origin) = outstanding.pop_front().unwrap();
            now = end;
            clients.on_finish(now, origin, Some(128));
        }
    }
    assert_eq!(arrived, 50);
    // Thirteen rounds of four: each takes 3 s and 2 s of thought.
    assert_eq!(now, SimTime((12 * 5 + 3) * 1_000_000_000));

    let mut waiting = generator(&section, 1);
    (0..4).for_each(|_| assert_eq!(waiting.next().unwrap().at, SimTime::ZERO));
    assert_eq!((waiting.next_at(), waiting.next(), waiting.is_exhausted()), (None, None, false));
}

#[test]
fn shared_prefixes_come_before_unique_prompts() {
    let section = "requests: 1000, arrivals: {poisson: 5/s}, prompt: {constant: 100}, output: {constant: 1}, \
                   shared_prefix: {prompts: 4, tokens: 64, zipf: 1.0}";
    let prefixed = generator(section, 1);
    assert!(prefixed.has_prefix_identity());
    assert_eq!(prefixed.longest(), Some((164, 1)));
    let arrivals = drain(prefixed);
    let mut own: Vec<u64> = arrivals.iter().map(|arrival| arrival.runs[1].id).collect();
    own.sort_unstable();
    own.dedup();
    assert_eq!(own.len(), 1000, "own prompts are all different");
    let first = arrivals.iter().filter(|arrival| arrival.runs[0].id == 0).count();
    // 1 / (1 + 1/2 + 1/3 + 1/4) = 48 %.
    assert!((430..=530).contains(&first), "{first}");
    for arrival in &arrivals {
        assert!(arrival.runs[0].id < 4 && arrival.runs[1].id >= 4);
        assert_eq!(arrival.runs.iter().map(|run| run.tokens).sum::<u32>(), arrival.prompt_tokens);
    }
}

#[test]
fn priorities_are_drawn_by_weight() {
    let section = |priority: &str| {
        format!("requests: 1000, arrivals: {{poisson: 5/s}}, {LENGTHS}, priority: {priority}")
    };
    let classes = "{classes: [{priority: -1, weight: 1}, {priority: 5, weight: 3}]}";
    let arrivals = drain(generator(&section(classes), 1));
    let urgent = arrivals.iter().filter(|arrival| arrival.priority == -1).count();
    assert!((200..=300).contains(&urgent), "{urgent}");
    assert!(arrivals.iter().all(|arrival| arrival.priority == -1 || arrival.priority == 5));
    assert!(drain(generator(&section("{constant: 3}"), 1)).iter().all(|arrival| arrival.priority == 3));
}

#[test]
fn longest_is_known_only_when_bounded() {
    let section = |prompt: &str| {
        format!("requests: 1, arrivals: {{poisson: 5/s}}, prompt: {{{prompt}}}, output: {{constant: 7}}")
    };
    assert_eq!(generator(&section("lognormal: {median: 5, sigma: 1}"), 1).longest(), None);
    assert_eq!(generator(&section("lognormal: {median: 5, sigma: 1, max: 50}"), 1).longest(), Some((50, 7)));
    assert_eq!(generator(&section("quantiles: [[0, 2], [100, 90]]"), 1).longest(), Some((90, 7)));
    let mixture =
        "mixture: [{weight: 1, length: {constant: 9}}, {weight: 1, length: {uniform: {min: 1, max: 30}}}]";
    assert_eq!(generator(&section(mixture), 1).longest(), Some((30, 7)));
}

#[test]
fn files_give_lengths_and_times() {
    let folder = std::env::temp_dir().join(format!("servesim-workload-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("pairs.csv"), "prompt_tokens,output_tokens\n10,1\n20,2\n30,3\n").unwrap();
    let rows = "{\"arrival_ms\":5,\"prompt_tokens\":4,\"output_tokens\":1,\"priority\":7}\n\
                {\"arrival_ms\":9,\"prompt_tokens\":5,\"output_tokens\":2,\"runs\":[[1,5]]}\n";
    std::fs::write(folder.join("own.jsonl"), rows).unwrap();
    let open = |section: &str| generator_at(&format!("workload: {{{section}}}"), 1, &folder);

    let drawn = drain(open("requests: 3000, arrivals: {poisson: 1/s}, lengths: {pairs: pairs.csv}").unwrap());
    for row in 1..=3 {
        let count = drawn.iter().filter(|a| (a.prompt_tokens, a.output_tokens) == (10 * row, row)).count();
        assert!((890..=1110).contains(&count), "{row}: {count}");
    }
    let trace = open("trace: {path: own.jsonl}, priority: {constant: 2}").unwrap();
    assert!(trace.has_prefix_identity());
    assert_eq!((trace.request_limit(), trace.longest(), trace.skipped_rows()), (Some(2), Some((5, 2)), 0));
    let found: Vec<_> = drain(trace).iter().map(|a| (a.at.0, a.priority)).collect();
    assert_eq!(found, [(5_000_000, 7), (9_000_000, 2)]);
    // The trace's lengths in order at other times.
    let paced = drain(open("trace: {path: own.jsonl}, arrivals: {constant: 1/s}").unwrap());
    assert_eq!(
        paced.iter().map(|a| (a.at.0, a.prompt_tokens)).collect::<Vec<_>>(),
        [(1_000_000_000, 4), (2_000_000_000, 5)]
    );
    // Two rows 4 ms apart are 250/s; at 1000/s every time is a quarter.
    let faster = drain(open("trace: {path: own.jsonl, rate: 1000/s}").unwrap());
    assert_eq!(faster.iter().map(|a| a.at.0).collect::<Vec<_>>(), [1_250_000, 2_250_000]);
    let error = open("trace: {path: own.jsonl, limit: 1, rate: 5/s}").unwrap_err().to_string();
    assert!(error.contains("workload.trace.rate: this trace has no rate to change"), "{error}");
    let error = open("trace: {path: pairs.csv}").unwrap_err();
    assert!(error.message().starts_with("this trace has lengths but no times"), "{error}");
    let error = open("trace: {path: none.csv}").unwrap_err().to_string();
    assert!(error.starts_with("s.yaml:1:") && error.contains("workload.trace.path: "), "{error}");
    assert!(error.ends_with("none.csv: no such file"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_examples_of_the_documentation_hold() {
    let page = include_str!("../../../docs/traces.md");
    let blocks = |language: &str| -> Vec<String> {
        let begin = format!("```{language}\n");
        page.split(&begin)
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap_or_default().to_string())
            .collect()
    };
    let examples = blocks("yaml");
    assert_eq!(examples.len(), 2);
    assert_eq!(drain(generator_at(&examples[0], 1, Path::new("")).unwrap()).len(), 10_000);
    let error = generator_at(&examples[1], 1, Path::new("no/such/folder")).unwrap_err();
    assert!(error.message().ends_with("conversation.jsonl.gz: no such file"), "{error}");

    let path = std::env::temp_dir().join(format!("servesim-page-{}.jsonl", std::process::id()));
    std::fs::write(&path, blocks("jsonl").concat()).unwrap();
    let trace = trace::read(&TraceSpec::whole(&path), Path::new("")).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(trace.rows.len(), 3);
}

/// Lengths and gaps of the Azure conversation trace of 2023 (P. Patel et al., ISCA 2024, CC-BY 4.0) as a scenario can
/// say them. The published input is 1155 / 1020 / 2734 / 4142 tokens (mean, p50, p90, p99), the output 211 / 129 / 424
/// / 601, and the gaps have a coefficient of variation of 1.09 at 5.53 requests a second.
#[test]
fn percentiles_reproduce_the_azure_conversation_trace() {
    let section = "requests: 100_000, arrivals: {gamma: {rate: 5.53/s, cv: 1.09}}, \
        prompt: {quantiles: [[0, 2], [5, 181], [10, 207], [15, 372], [35, 414], [40, 703], [45, 984], [50, 1020], \
          [70, 1130], [80, 1315], [85, 1876], [90, 2734], [95, 4083], [99, 4142], [99.9, 6179], [100, 14050]]}, \
        output: {quantiles: [[0, 7], [5, 41], [10, 54], [30, 91], [45, 113], [50, 129], [60, 177], [65, 217], \
          [70, 384], [90, 424], [95, 451], [99, 601], [99.5, 643], [99.9, 954], [100, 1000]]}";
    let arrivals = drain(generator(section, 1));
    let summary = |tokens: fn(&Arrival) -> u32| -> Vec<f64> {
        let mut sorted: Vec<u32> = arrivals.iter().map(tokens).collect();
        sorted.sort_unstable();
        let mean = sorted.iter().map(|t| f64::from(*t)).sum::<f64>() / sorted.len() as f64;
        let percentile = |percent: usize| f64::from(sorted[sorted.len() * percent / 100]);
        vec![mean, percentile(50), percentile(90), percentile(99)]
    };
    let close = |found: Vec<f64>, published: [f64; 4]| {
        println!("{found:?}, published {published:?}");
        for (found, published) in found.iter().zip(published) {
            assert!((found / published - 1.0).abs() < 0.02, "{found}, published {published}");
        }
    };
    close(summary(|arrival| arrival.prompt_tokens), [1155.0, 1020.0, 2734.0, 4142.0]);
    close(summary(|arrival| arrival.output_tokens), [211.0, 129.0, 424.0, 601.0]);
    let (mean, cv) = gaps(&arrivals.iter().map(|arrival| arrival.at.0).collect::<Vec<_>>());
    assert!((mean * 5.53 - 1.0).abs() < 0.015 && (cv / 1.09 - 1.0).abs() < 0.02, "{mean} {cv}");
}
