use super::*;
use crate::units::SimTime;
use crate::workload::Arrival;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that goes away with its value.
struct Fixture(PathBuf);

impl Fixture {
    fn new(suffix: &str, content: impl AsRef<[u8]>) -> Fixture {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("servesim-{}-{number}{suffix}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Fixture(path)
    }

    fn read(&self) -> Result<Trace> {
        read(&TraceSpec::whole(&self.0), Path::new(""))
    }

    fn read_as(&self, change: impl FnOnce(&mut TraceSpec)) -> Result<Trace> {
        let mut spec = TraceSpec::whole(&self.0);
        change(&mut spec);
        read(&spec, Path::new(""))
    }

    /// The message of the error, after the file name.
    fn failure(&self) -> String {
        let text = self.read().unwrap_err().to_string();
        text.strip_prefix(&self.0.display().to_string()).unwrap().to_string()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// (arrival in ns, prompt, output) of each row.
fn columns(trace: &Trace) -> Vec<(u64, u32, u32)> {
    trace.rows.iter().map(|row| (row.at_ns, row.prompt_tokens, row.output_tokens)).collect()
}

const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9000000,374,44\r\n\
                     2023-11-17 00:00:00.1000001,396,109\r\n2023-11-17 00:00:05.0000000,50,8";

#[test]
fn azure_times_count_from_the_first_row() {
    let expected = vec![(0, 374, 44), (200_000_100, 396, 109), (5_100_000_000, 50, 8)];
    assert_eq!(columns(&Fixture::new(".csv", AZURE).read().unwrap()), expected);
    // Gzip is found by its first bytes, whatever the name; a byte-order mark is passed over.
    assert_eq!(columns(&Fixture::new(".csv.gz", gzip(AZURE)).read().unwrap()), expected);
    assert_eq!(columns(&Fixture::new(".csv", gzip(AZURE)).read().unwrap()), expected);
    assert_eq!(columns(&Fixture::new(".csv", format!("\u{feff}{AZURE}\n\n")).read().unwrap()), expected);
}

#[test]
fn burstgpt_and_lengths_are_found_by_their_headers() {
    let burstgpt = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                    5,ChatGPT,472,18,490,Conversation log\n45.25,\"GPT-4, new\",1087,230,1317,API log\n\
                    1.0e2,GPT-4,7,3,10,API log\n";
    let trace = Fixture::new(".csv", burstgpt).read().unwrap();
    let expected = [(5_000_000_000, 472, 18), (45_250_000_000, 1087, 230), (100_000_000_000, 7, 3)];
    assert_eq!(columns(&trace), expected);
    assert!(trace.has_times);
    for text in [
        "num_prefill_tokens,num_decode_tokens,num_total_tokens\n74,918,992\n290,905,1195\n",
        "id,output_tokens,prompt_tokens\nx,918,74\ny,905,290\n",
    ] {
        let trace = Fixture::new(".csv", text).read().unwrap();
        assert_eq!(columns(&trace), [(0, 74, 918), (0, 290, 905)]);
        assert!(!trace.has_times);
    }
    for text in ["74,918\n290,905\n", "in,out\n74,918\n290,905\n"] {
        let trace =
            Fixture::new(".csv", text).read_as(|spec| spec.format = Some(TraceFormat::Lengths)).unwrap();
        assert_eq!(columns(&trace), [(0, 74, 918), (0, 290, 905)]);
    }
}

#[test]
fn own_csv_has_what_its_header_says() {
    let plain =
        Fixture::new(".csv", "arrival_s,prompt_tokens,output_tokens\n0,3000,100\n0.5,7,1\n").read().unwrap();
    assert_eq!(columns(&plain), [(0, 3000, 100), (500_000_000, 7, 1)]);
    assert!(plain.has_times && plain.rows.iter().all(|row| row.session.is_none() && row.tenant.is_none()));
    // In any order, among others.
    let text =
        "session,output_tokens,note,tenant,prompt_tokens,arrival_s,priority\n7,9,\"a, b\",chat,300,1.25,-2\n";
    let row = Fixture::new(".csv", text).read().unwrap().rows.remove(0);
    assert_eq!((row.at_ns, row.prompt_tokens, row.output_tokens), (1_250_000_000, 300, 9));
    assert_eq!((row.session, row.priority, row.tenant.as_deref()), (Some(7), Some(-2), Some("chat")));
    for (from, to, wanted) in [
        ("7,9", "x7,9", ":2: column session: found `x7`, expected a whole number, 0 to 4294967295"),
        ("chat", "", ":2: column tenant: found ``, expected a tenant's name"),
        (
            ",-2",
            ",high",
            ":2: column priority: found `high`, expected a whole number, -2147483648 to 2147483647",
        ),
    ] {
        assert_eq!(Fixture::new(".csv", text.replace(from, to)).failure(), wanted);
    }
    // What one row does not know others may.
    let row =
        Fixture::new(".csv", text.replace("7,9", ",9").replace(",-2", ",")).read().unwrap().rows.remove(0);
    assert_eq!((row.session, row.priority, row.tenant.as_deref()), (None, None, Some("chat")));
}

#[test]
fn mooncake_blocks_become_runs() {
    let text =
        "{\"timestamp\": 3000, \"input_length\": 1025, \"output_length\": 5, \"hash_ids\": [0, 9, 7]}\n";
    let trace = Fixture::new(".jsonl", text).read().unwrap();
    assert_eq!(columns(&trace), [(3_000_000_000, 1025, 5)]);
    let run = |id, tokens| TokenRun { id, tokens };
    assert_eq!(trace.rows[0].runs, [run(0, 512), run(9, 512), run(7, 1)]);

    let cut = Fixture::new(".jsonl", text).read_as(|spec| spec.max_prompt_tokens = Some(600)).unwrap();
    assert_eq!(cut.rows[0].prompt_tokens, 600);
    assert_eq!(cut.rows[0].runs, [run(0, 512), run(9, 88)]);

    let wrong = text.replace(", 7]", "]");
    let message = Fixture::new(".jsonl", &wrong).failure();
    assert_eq!(message, ":1: column hash_ids: found 2 ids, expected 3: 1025 tokens in blocks of 512");
}

#[test]
fn own_traces_come_back_as_written() {
    let arrivals = [
        Arrival { at: SimTime(17), prompt_tokens: 3, output_tokens: 1, session: 7, ..Arrival::default() },
        Arrival {
            at: SimTime(u64::from(u32::MAX) << 20),
            prompt_tokens: 12,
            output_tokens: 9,
            priority: -2,
            session: 7,
            output_run: Some(31),
            runs: vec![TokenRun { id: u64::MAX, tokens: 5 }, TokenRun { id: 0, tokens: 7 }],
            ..Arrival::default()
        },
    ];
    let mut text = Vec::new();
    for (id, arrival) in arrivals.iter().enumerate() {
        write_arrival(&mut text, id as u64, arrival, [None, Some("a \"b\"")][id]).unwrap();
    }
    let trace = Fixture::new(".jsonl", text).read().unwrap();
    for (row, arrival) in trace.rows.iter().zip(&arrivals) {
        assert_eq!((row.at_ns, row.prompt_tokens), (arrival.at.0, arrival.prompt_tokens));
        assert_eq!((row.output_tokens, row.priority.unwrap_or(0)), (arrival.output_tokens, arrival.priority));
        assert_eq!(row.runs, arrival.runs);
        assert_eq!((row.session, row.output_run), (Some(arrival.session), arrival.output_run));
    }
    assert_eq!((trace.rows[0].tenant.as_deref(), trace.rows[1].tenant.as_deref()), (None, Some("a \"b\"")));
    let text = "{\"arrival_ms\": 1.5, \"prompt_tokens\": 20, \"output_tokens\": 2, \"tenant\": \"a\", \"id\": \"r1\", \
                \"hash_ids\": [4, 5], \"hash_block_tokens\": 16}";
    let trace = Fixture::new(".jsonl", text).read().unwrap();
    assert_eq!(columns(&trace), [(1_500_000, 20, 2)]);
    assert_eq!(trace.rows[0].runs, [TokenRun { id: 4, tokens: 16 }, TokenRun { id: 5, tokens: 4 }]);
}

#[test]
fn slices_scale_and_cap() {
    let text: String = (0..10)
        .map(|i| format!("{{\"arrival_ms\":{},\"prompt_tokens\":9,\"output_tokens\":{}}}\n", 100 * i, i + 1))
        .collect();
    let file = Fixture::new(".jsonl", text);
    let outputs = |change: &dyn Fn(&mut TraceSpec)| -> Vec<(u64, u32)> {
        let trace = file.read_as(|spec| change(spec)).unwrap();
        trace.rows.iter().map(|row| (row.at_ns / 1_000_000, row.output_tokens)).collect()
    };
    assert_eq!(outputs(&|s| s.limit = Some(2)), [(0, 1), (100, 2)]);
    assert_eq!(outputs(&|s| s.skip = 8), [(0, 9), (100, 10)]);
    let window = |s: &mut TraceSpec| (s.from, s.until) = (Some(Span(250_000_000)), Some(Span(500_000_000)));
    assert_eq!(outputs(&window), [(50, 4), (150, 5)]);
    assert_eq!(
        outputs(&|s| {
            window(s);
            s.skip = 1;
            s.time_scale = Some(0.5);
            s.max_output_tokens = Some(2);
        }),
        [(0, 2)]
    );
    assert_eq!(outputs(&|s| (s.time_scale, s.limit) = (Some(2.5), Some(2))), [(0, 1), (250, 2)]);
    let error = file.read_as(|spec| spec.skip = 10).unwrap_err();
    assert!(error.message().contains("no row of the trace is left"), "{error}");
}

#[test]
fn malformed_rows_name_their_line_and_column() {
    let azure =
        |row: &str| format!("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,1\n{row}\n");
    let own = |row: &str| format!("{{\"arrival_ns\":0,\"prompt_tokens\":1,\"output_tokens\":1}}\n{row}\n");
    let tokens = "expected a whole number of tokens, 1 to 16777216";
    let zero = "; `on_error: skip` leaves out such rows";
    for (text, expected) in [
        (azure("2023-11-16 18:15:47,abc,1"), format!(":3: column ContextTokens: found `abc`, {tokens}")),
        (azure("2023-11-16 18:15:47,NaN,1"), format!(":3: column ContextTokens: found `NaN`, {tokens}")),
        (azure("2023-11-16 18:15:47,-5,1"), format!(":3: column ContextTokens: found `-5`, {tokens}")),
        (azure("2023-11-16 18:15:47,0,1"), format!(":3: column ContextTokens: found `0`, {tokens}{zero}")),
        (azure("2023-11-16 18:15:47,1,0"), format!(":3: column GeneratedTokens: found `0`, {tokens}{zero}")),
        (azure("2023-11-16 18:15:47,99999999,1"), format!(":3: column ContextTokens: found `99999999`, {tokens}")),
        (
            azure("2023-11-16 18:15:47,5"),
            ":3: column GeneratedTokens: the row has only 2 columns, expected at least 3".into(),
        ),
        (
            azure("yesterday,5,1"),
            ":3: column TIMESTAMP: found `yesterday`, expected a date and time such as `2023-11-16 18:15:46.6805900`"
                .into(),
        ),
        (
            azure("2023-11-16 18:15:45.5,5,1"),
            ":3: out of order: this row arrives 500ms before line 2; sort the trace by time".into(),
        ),
        (azure("\"2023-11-16 18:15:47,5,1"), ":3: a quoted column does not end on this line".into()),
        (own("{\"arrival_ns\":0,"), ":2: not valid JSON at column 16: EOF while parsing".into()),
        (own("[1]"), ":2: found `[1]`, expected a JSON object".into()),
        (
            own("{\"arrival_ns\":NaN,\"prompt_tokens\":1,\"output_tokens\":1}"),
            ":2: not valid JSON at column 15: expected value".into(),
        ),
        (
            own("{\"arrival_ns\":-1,\"prompt_tokens\":1,\"output_tokens\":1}"),
            ":2: column arrival_ns: found `-1`, expected a time of 0 or more".into(),
        ),
        (
            own("{\"arrival_ns\":1e300,\"prompt_tokens\":1,\"output_tokens\":1}"),
            ":2: column arrival_ns: found `1e+300`, expected a time of 0 or more".into(),
        ),
        (own("{\"prompt_tokens\":1,\"output_tokens\":1}"), ":2: column arrival_ns: is missing".into()),
        (own("{\"arrival_ns\":1,\"prompt_tokens\":1}"), ":2: column output_tokens: is missing".into()),
        (
            own("{\"arrival_ns\":1,\"prompt_token\":1,\"output_tokens\":1}"),
            ":2: column prompt_token: unknown key (did you mean `prompt_tokens`?)".into(),
        ),
        (
            own("{\"arrival_ns\":1,\"prompt_tokens\":4,\"output_tokens\":1,\"runs\":[[1,3]]}"),
            ":2: column runs: found 3 tokens, expected 4 as in prompt_tokens".into(),
        ),
        ("a,b,c\n1,2,3\n".into(), ":1: not a trace: found `a,b,c`, which is no known header".into()),
        ("{\"x\":1}\n".into(), ":1: not a trace: an object of no known format".into()),
        (String::new(), ": is an empty trace: no usable rows".into()),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n\n".into(), ": is an empty trace: no usable rows".into()),
    ] {
        let message = Fixture::new(".txt", &text).failure();
        assert!(message.starts_with(&expected), "{text}\nfound    {message}\nexpected {expected}");
    }
    let missing = Fixture::new(".csv", "TIMESTAMP,ContextTokens\n")
        .read_as(|spec| spec.format = Some(TraceFormat::Azure))
        .unwrap_err();
    assert!(missing.message().contains("column GeneratedTokens is missing"), "{missing}");
}

#[test]
fn malformed_rows_can_be_skipped_and_are_counted() {
    let mut text = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,1,1\n".to_vec();
    text.extend(b"2023-11-16 18:00:05,x,1\n2023-11-16 17:00:00,2,1\n\xff\xfe,2,1\n2023-11-16 18:00:01,3,1\n");
    let file = Fixture::new(".csv", &text);
    let trace = file.read_as(|spec| spec.on_error = OnError::Skip).unwrap();
    assert_eq!(columns(&trace), [(0, 1, 1), (1_000_000_000, 3, 1)]);
    assert_eq!(trace.skipped_rows, 3);

    let file = Fixture::new(".csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nx\n");
    let error = file.read_as(|spec| spec.on_error = OnError::Skip).unwrap_err();
    assert!(error.message().contains("is an empty trace: no usable rows (1 malformed)"), "{error}");
}

#[test]
fn files_that_are_no_traces_are_refused() {
    assert_eq!(Fixture::new(".csv", b"TIMESTAMP\xff,\n").failure(), ":1: is not UTF-8 text");
    assert_eq!(
        Fixture::new(".csv.gz", AZURE).failure(),
        ": is not a gzip file, although its name ends in .gz"
    );
    let whole = gzip(AZURE);
    let message = Fixture::new(".csv.gz", &whole[..whole.len() / 2]).failure();
    assert!(message.ends_with("the gzip data end too early: the file is cut off"), "{message}");
    let mut damaged = whole.clone();
    damaged[12] ^= 0xff;
    let message = Fixture::new(".csv.gz", damaged).failure();
    assert!(message.contains("gzip data"), "{message}");

    let error = read(&TraceSpec::whole(Path::new("no/such/file.csv")), Path::new("")).unwrap_err();
    assert_eq!(error.to_string(), "no/such/file.csv: no such file");
    let error = read(&TraceSpec::whole(&std::env::temp_dir()), Path::new("")).unwrap_err();
    assert_eq!(error.message(), "is a directory, expected a file");
}

#[test]
fn a_line_of_a_gigabyte_fails_at_once() {
    let file = Fixture::new(".csv", "");
    // A hole, which takes no room on the disk.
    std::fs::OpenOptions::new().write(true).open(&file.0).unwrap().set_len(1 << 30).unwrap();
    let begin = std::time::Instant::now();
    assert_eq!(file.failure(), ":1: the line is longer than 16 MiB: is this a trace?");
    assert!(begin.elapsed().as_secs() < 2);
}

#[test]
fn sessions_of_agents_have_their_turns_blocks_and_thoughts() {
    let text = "{\"id\":\"a\",\"block_size\":64,\"requests\":[\
                {\"in\":200,\"out\":0,\"think_time\":0.0,\"blocks\":[[1,1],[2,1],[9,1]]},\
                {\"type\":\"subagent\",\"requests\":[{\"in\":64,\"out\":2,\"think_time\":1.5,\"blocks\":[[30,1]]}]},\
                {\"in\":230,\"out\":3,\"blocks\":[[1,3]]}]}\n\
                {\"id\":\"b\",\"block_size\":64,\"requests\":[{\"in\":64,\"out\":1,\"blocks\":[[1,1]]}]}\n";
    let fixture = Fixture::new(".jsonl", text);
    let trace = fixture.read().unwrap();
    assert!(trace.rows.is_empty() && !trace.has_times && trace.sessions.len() == 2);
    let of = |session: usize| -> Vec<_> {
        let runs = |turn: &ScriptTurn| -> Vec<(u64, u32)> {
            turn.runs.iter().map(|run| (run.id & 0xfff_ffff, run.tokens)).collect()
        };
        let turns = &trace.sessions[session].turns;
        turns.iter().map(|t| (t.think.0, t.prompt_tokens, t.output_tokens, runs(t))).collect()
    };
    let tail = 1 << 27;
    assert_eq!(
        of(0),
        [
            (0, 200, 1, vec![(1, 128), (9, 64), (tail, 8)]),
            (1_500_000_000, 64, 2, vec![(30, 64)]),
            (0, 230, 3, vec![(1, 192), (tail + 2, 38)]),
        ]
    );
    assert_ne!(
        trace.sessions[0].turns[0].runs[0].id, trace.sessions[1].turns[0].runs[0].id,
        "ids are a session's own"
    );
    let cut = fixture
        .read_as(|spec| {
            (spec.limit, spec.time_scale) = (Some(1), Some(2.0));
            (spec.max_prompt_tokens, spec.max_output_tokens) = (Some(130), Some(1));
        })
        .unwrap();
    let turns: Vec<_> =
        cut.sessions[0].turns.iter().map(|t| (t.think.0, t.prompt_tokens, t.output_tokens)).collect();
    assert_eq!((cut.sessions.len(), turns), (1, vec![(0, 130, 1), (3_000_000_000, 64, 1), (0, 130, 1)]));
    assert_eq!(cut.sessions[0].turns[0].runs[1].tokens, 2);
    assert_eq!(fixture.read_as(|spec| spec.skip = 1).unwrap().sessions.len(), 1);
    let none = fixture.read_as(|spec| spec.skip = 2).unwrap_err().to_string();
    assert!(none.ends_with("no row of the trace is left after from, until and skip"), "{none}");
}

#[test]
fn ragpulse_rows_are_sorted_and_made_of_chunks() {
    let folder = std::env::temp_dir().join(format!("servesim-rag-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let chunk =
        |key: &str, id: u32, tokens: u32| format!("{{\"{key}\": {id}, \"token_length\": {tokens}}}\n");
    write("1_sys_prompt.jsonl", &(chunk("sys_prompt_id", 8, 30) + "\n"));
    write("2_passages.jsonl", &(chunk("passage_id", 8, 20) + &chunk("passage_id", 9, 21)));
    write("3_history.jsonl", &chunk("history_id", 1, 5));
    write("4_user_input.jsonl", &chunk("user_input_id", 2, 6));
    write("5_web_search.jsonl", &chunk("web_search_id", 3, 7));
    let row = |at: u32, tokens: u32, passages: &str, session: &str| {
        format!(
            "{{\"timestamp\": \"{at}\", \"input_length\": {tokens}, \"output_length\": 4, \"hash_ids\": {{\"sys_prompt\": [8], \
             \"passages_ids\": [{passages}], \"history\": [1], \"web_search\": [3], \"user_input\": [2]}}, \"session_id\": \"{session}\"}}\n"
        )
    };
    write("0_trace.jsonl", &(row(9, 100, "9, 8", "x") + &row(5, 69, "8", "y") + &row(7, 40, "8", "x")));
    let trace = read(&TraceSpec::whole(&folder.join("0_trace.jsonl")), Path::new("")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(columns(&trace), [(5_000_000_000, 69, 4), (7_000_000_000, 40, 4), (9_000_000_000, 100, 4)]);
    assert_eq!(trace.rows.iter().map(|row| row.session).collect::<Vec<_>>(), [Some(2), Some(1), Some(1)]);
    let tokens = |row: usize| trace.rows[row].runs.iter().map(|run| run.tokens).collect::<Vec<_>>();
    // System, passages, history, web, question, and what the lengths leave; or what fits.
    assert_eq!(
        (tokens(0), tokens(1), tokens(2)),
        (vec![30, 20, 5, 7, 6, 1], vec![30, 10], vec![30, 21, 20, 5, 7, 6, 11])
    );
    let id = |row: usize, run: usize| trace.rows[row].runs[run].id;
    assert!(id(0, 0) == id(2, 0) && id(0, 1) == id(2, 2) && id(0, 0) != id(0, 1), "a kind's ids are its own");
    assert_ne!(id(0, 5), id(2, 6), "the rest is unlike any other");
}
