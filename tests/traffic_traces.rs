//! Public traces of sessions, retrieval, clients and tenants from their files, against counts of their own.

use crate::real_traces::traces;
use crate::recordings::read_gz;
use crate::traffic::{ENOUGH_MEMORY, Traffic, scenario, watched};
use sim::document::Document;
use sim::scenario::{Scenario, ScenarioFile};
use sim::workload::WorkloadGenerator;
use std::collections::{HashMap, HashSet};

/// The recorded sessions with memory for everything: every turn hits the leading blocks that its session had before, as
/// the data's own count has it, but for the last token.
#[test]
fn agentic_sessions_hit_the_blocks_that_their_own_count_says() {
    let Some(folder) = traces() else { return };
    let sessions = 40;
    let text = format!(
        "{}workload:\n  trace: {{ path: agentic-coding-sessions/sessions.jsonl.gz, limit: {sessions}, max_output_tokens: 2, time_scale: 0.1 }}\n  \
         arrivals: {{ burst: {{ size: {sessions} }} }}\n",
        ENOUGH_MEMORY.replace("block_size: 16", "block_size: 64")
    );
    let (run, arrivals) = watched(&text, &folder);
    let text = read_gz(&folder.join("agentic-coding-sessions/requests_flat.csv.gz"));
    let mut expected: HashMap<String, Vec<(u32, u32)>> = HashMap::new();
    let (mut order, mut with_subagents) = (Vec::new(), HashSet::new());
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |index: usize| fields[index].parse::<u32>().unwrap();
        if !expected.contains_key(fields[0]) {
            order.push(fields[0].to_string());
        }
        if fields[2] != "0" {
            with_subagents.insert(fields[0].to_string());
        }
        expected.entry(fields[0].to_string()).or_default().push((number(6), number(9)));
    }
    let mut turns: HashMap<u32, Vec<usize>> = HashMap::new();
    arrivals.iter().enumerate().for_each(|(i, arrival)| turns.entry(arrival.session).or_default().push(i));
    let mut opened: Vec<(usize, Vec<usize>)> = turns.into_values().map(|turns| (turns[0], turns)).collect();
    opened.sort_unstable();
    assert_eq!(opened.len(), sessions);
    let (mut hit, mut prompt) = (0u64, 0u64);
    for (name, (_, turns)) in order.iter().zip(&opened).filter(|(name, _)| !with_subagents.contains(*name)) {
        assert_eq!(turns.len(), expected[name].len(), "{name}");
        for (&i, &(tokens, reused)) in turns.iter().zip(&expected[name]) {
            assert_eq!(run.table.prompt_tokens[i], tokens);
            assert_eq!(run.table.cached_tokens[i], 64 * reused.min((tokens - 1) / 64), "{name}, request {i}");
            hit += u64::from(run.table.cached_tokens[i]);
            prompt += u64::from(tokens);
        }
    }
    println!(
        "{} sessions, {} requests, {:.1} % of prompt tokens hit",
        sessions,
        run.table.len(),
        100.0 * hit as f64 / prompt as f64
    );
    assert!(hit * 10 > prompt * 9);
}

/// RAGPulse with memory for everything, one request at a time: what is hit is what a count over whole tokens finds.
#[test]
fn ragpulse_hits_what_a_count_over_tokens_finds() {
    let Some(folder) = traces() else { return };
    let text = format!(
        "{}workload: {{ trace: {{ path: ragpulse/0_trace.jsonl.gz, max_output_tokens: 1 }} }}\n",
        ENOUGH_MEMORY.replace("max_num_seqs: 64", "max_num_seqs: 1")
    );
    let (run, arrivals) = watched(&text, &folder);
    assert_eq!(arrivals.len(), 7_106);
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at), "the file is not in order of time");
    let sessions: HashSet<u32> = arrivals.iter().map(|arrival| arrival.session).collect();
    assert_eq!(sessions.len(), 3_990);
    // Chunk lengths and lists straight from the files.
    let mut lengths: HashMap<(usize, u64), u64> = HashMap::new();
    let kinds = [
        ("sys_prompt", "1_sys_prompt", "sys_prompt_id"),
        ("passages_ids", "2_passages", "passage_id"),
        ("history", "3_history", "history_id"),
        ("web_search", "5_web_search", "web_search_id"),
        ("user_input", "4_user_input", "user_input_id"),
    ];
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    for (kind, (_, file, key)) in kinds.iter().enumerate() {
        for line in
            read_gz(&folder.join(format!("ragpulse/{file}.jsonl.gz"))).lines().filter(|line| !line.is_empty())
        {
            let row = value(line);
            lengths.insert((kind, row[key].as_u64().unwrap()), row["token_length"].as_u64().unwrap());
        }
    }
    let mut rows: Vec<(u64, usize, serde_json::Value)> = read_gz(&folder.join("ragpulse/0_trace.jsonl.gz"))
        .lines()
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(index, line)| {
            (value(line)["timestamp"].as_str().unwrap().parse().unwrap(), index, value(line))
        })
        .collect();
    rows.sort_by_key(|row| (row.0, row.1));
    let (mut seen, mut hit, mut total) = (HashSet::new(), 0u64, 0u64);
    for (i, (_, index, row)) in rows.iter().enumerate() {
        let prompt = row["input_length"].as_u64().unwrap();
        let mut tokens: Vec<u64> = Vec::with_capacity(prompt as usize);
        for (kind, (list, _, _)) in kinds.iter().enumerate() {
            for id in row["hash_ids"][list].as_array().unwrap() {
                let id = id.as_u64().unwrap();
                tokens
                    .extend((0..lengths[&(kind, id)]).map(|offset| (kind as u64) << 56 | id << 20 | offset));
            }
        }
        let own = tokens.len() as u64;
        tokens.extend((own..prompt).map(|offset| 7 << 56 | (*index as u64) << 20 | offset));
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let blocks: Vec<u64> = tokens
            .chunks_exact(16)
            .map(|block| {
                for token in block {
                    hash = (hash ^ token).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
                }
                hash
            })
            .collect();
        let leading = blocks.iter().take_while(|block| seen.contains(*block)).count() as u64;
        let expected = 16 * leading.min((prompt - 1) / 16);
        assert_eq!(u64::from(run.table.cached_tokens[i]), expected, "request {i}");
        hit += expected;
        total += prompt;
        seen.extend(blocks);
    }
    println!("RAGPulse: {:.1} % of prompt tokens hit in blocks of 16", 100.0 * hit as f64 / total as f64);
}

/// The coefficient of variation of the gaps between times.
fn variation(times: &[f64]) -> f64 {
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt() / mean
}

/// A day of ServeGen's reasoning clients: requests, burstiness and lengths are those of the files.
#[test]
fn servegen_clients_have_the_rates_gaps_and_lengths_of_their_files() {
    let Some(folder) = traces() else { return };
    let text = "workload: {servegen: {arrivals: servegen/reason_deepseek-r1_arrivals.csv.gz, \
                lengths: servegen/reason_deepseek-r1_lengths.jsonl.gz}}";
    let document = Document::parse("s.yaml", text).unwrap();
    let file: Traffic = document.resolve().unwrap();
    let locate = |key: &str, message: String| document.error(key, message);
    let mut workload = WorkloadGenerator::new(&file.workload, 1, &folder, &locate).unwrap();
    // The files, read here.
    let mut windows: HashMap<(u32, u64), (f64, f64)> = HashMap::new();
    let mut clients: Vec<u32> = Vec::new();
    for line in read_gz(&folder.join("servegen/reason_deepseek-r1_arrivals.csv.gz")).lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let real = |index: usize| fields[index].parse::<f64>().unwrap();
        windows.insert((fields[0].parse().unwrap(), real(1) as u64 / 600), (real(2), real(3)));
        clients.push(fields[0].parse().unwrap());
    }
    clients.sort_unstable();
    clients.dedup();
    let expected: f64 = windows.values().map(|window| window.0 * 600.0).sum();
    let mut found: HashMap<(u32, u64), Vec<f64>> = HashMap::new();
    let (mut count, mut prompt_tokens, mut output_tokens, mut last) = (0u64, 0u64, 0u64, 0);
    while let Some(arrival) = workload.next() {
        assert!(arrival.at.0 >= last, "in order of time");
        last = arrival.at.0;
        let at_s = arrival.at.0 as f64 / 1e9;
        found.entry((clients[usize::from(arrival.class)], (at_s / 600.0) as u64)).or_default().push(at_s);
        count += 1;
        prompt_tokens += u64::from(arrival.prompt_tokens);
        output_tokens += u64::from(arrival.output_tokens);
    }
    println!("{count} requests, the files have {expected:.0}");
    assert!((count as f64 / expected - 1.0).abs() < 0.01, "{count} requests, the files have {expected}");
    assert!(found.keys().all(|key| windows.contains_key(key)), "no request outside a client's windows");
    let mean_rate = workload.mean_rate().unwrap();
    assert!((mean_rate * 86_400.0 / expected - 1.0).abs() < 0.01, "{mean_rate}");
    // Per window with many requests: the ratio of the coefficient of variation found to the file's. Few of so heavy
    // tails show all of them, so windows of more than 2 are only in the median.
    let ratios = |most: f64| {
        let mut ratios: Vec<f64> = found
            .iter()
            .filter(|(key, times)| times.len() >= 400 && windows[*key].1 <= most)
            .map(|(key, times)| variation(times) / windows[key].1)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    };
    let at = |ratios: &[f64], share: f64| ratios[(ratios.len() as f64 * share) as usize];
    let (all, light) = (ratios(f64::MAX), ratios(2.0));
    println!(
        "CV found over the file's: median {:.3} of {} windows; of the {} up to 2: p10 {:.3}, p90 {:.3}",
        at(&all, 0.5),
        all.len(),
        light.len(),
        at(&light, 0.1),
        at(&light, 0.9)
    );
    assert!(all.len() > 400 && (at(&all, 0.5) - 1.0).abs() < 0.03);
    assert!(light.len() > 200 && at(&light, 0.1) > 0.92 && at(&light, 0.9) < 1.08);
    // The data's own page: 1268 prompt and 1527 output tokens on average.
    let mean = |tokens: u64| tokens as f64 / count as f64;
    println!("mean prompt {:.0}, output {:.0} tokens", mean(prompt_tokens), mean(output_tokens));
    assert!(
        (mean(prompt_tokens) / 1268.0 - 1.0).abs() < 0.05
            && (mean(output_tokens) / 1527.0 - 1.0).abs() < 0.05
    );
    // Clients without lengths are left out and named; a stated rate is met.
    let text = "workload: {servegen: {arrivals: servegen/language_m-small_arrivals.csv.gz, from: 12h, until: 18h, rate: 50/s, \
                lengths: servegen/language_m-small_lengths.jsonl.gz}}";
    let document = Document::parse("s.yaml", text).unwrap();
    let file: Traffic = document.resolve().unwrap();
    let mut workload =
        WorkloadGenerator::new(&file.workload, 1, &folder, &|key, message| document.error(key, message))
            .unwrap();
    assert!(workload.notes()[0].contains("ServeGen clients have no lengths"), "{:?}", workload.notes());
    let count = std::iter::from_fn(|| workload.next()).count() as f64;
    assert!((count / (50.0 * 6.0 * 3600.0) - 1.0).abs() < 0.05, "{count}");
}

/// 27 tenants of the arena trace, named by its rows.
#[test]
fn arena_requests_belong_to_the_tenants_of_their_rows() {
    let Some(folder) = traces() else { return };
    let members: Vec<String> = (0..27).map(|tenant| format!("  - {{ name: \"{tenant}\" }}\n")).collect();
    let text = |members: &str| {
        format!(
            "model: llama-3.1-8b\nhardware: {{ gpu: h200 }}\nengine: {{ max_model_len: 8192 }}\n\
             workload: {{ trace: {{ path: arena-multitenant/arena_1500.csv }} }}\ntenants:\n  members:\n{members}"
        )
    };
    let scenario = scenario(&text(&members.concat()), &folder);
    let run = scenario.simulate(&mut ()).unwrap();
    let report = scenario.report(&run).tenants.unwrap();
    let mut expected = [0u64; 27];
    for line in
        std::fs::read_to_string(folder.join("arena-multitenant/arena_1500.csv")).unwrap().lines().skip(1)
    {
        expected[line.split(',').nth(1).unwrap().parse::<usize>().unwrap()] += 1;
    }
    let found: Vec<u64> = report.members.iter().map(|member| member.requests.finished).collect();
    assert_eq!(found, expected);
    assert!(report.fairness > 0.2 && report.fairness < 0.9, "{}", report.fairness);
    let document = Document::parse("s.yaml", &text("  - { name: \"0\" }\n")).unwrap();
    let file: ScenarioFile = document.resolve().unwrap();
    let error = Scenario::traffic(&document, &file, &folder).unwrap_err().to_string();
    assert!(
        error.starts_with("s.yaml:4:") && error.contains("unknown tenant `13`; the tenants are 0"),
        "{error}"
    );
}
