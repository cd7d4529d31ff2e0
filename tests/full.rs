//! What builds with the features `parquet`, `png` and `object-store` do, and what others say instead.

use crate::cli::{answer, refused};
use tempfile::TempDir;

/// A kept run of two replicas, with requests that are rejected and requests that are not.
fn run() -> TempDir {
    let folder = TempDir::new().unwrap();
    let sets = ["workload.requests=300", "deployment.replicas=2", "engine.max_model_len=2000"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    answer(folder.path(), &[&["simulate", "quickstart", "--out", "r"][..], &sets].concat());
    folder
}

#[test]
fn the_figures_of_a_run_are_svg_files_of_their_own() {
    let folder = run();
    let printed = answer(folder.path(), &["report", "r", "--charts", "c"]);
    assert!(!folder.path().join("r/report.html").exists(), "the page was not asked for");
    let names: Vec<&str> = printed.lines().collect();
    assert_eq!(names.len(), 13, "{printed}");
    for name in names {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text.starts_with("<svg") && text.contains("<title>") && text.contains("<style>"), "{name}");
        assert!(!text.contains("var(--") && !text.contains("NaN"), "{name}: colours are written out");
    }
    assert!(printed.contains("c/where-the-step-time-goes.svg\n"), "{printed}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_parquet_says_how_to_get_one() {
    let folder = run();
    let how =
        "this build has no Parquet; install one that has with `cargo install --path . --features parquet`";
    for arguments in [
        &["report", "r", "--parquet", "t"][..],
        &["sweep", "quickstart", "--set", "seed=1,2", "--out", "s.parquet"],
        &["sweep", "merge", "a.parquet", "--out", "s.csv"],
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(how), "{message}");
    }
    let rows = folder.path().join("h200_sxm/gemm/trtllm/1.3.0rc20");
    std::fs::create_dir_all(&rows).unwrap();
    std::fs::write(rows.join("gemm_perf.parquet"), "PAR1").unwrap();
    let import = ["calibrate", "import", "aiconfigurator", ".", "--system", "h200_sxm", "--engine", "trtllm"];
    let message = refused(folder.path(), &[&import[..], &["--out", "m.csv"]].concat());
    assert!(message.contains("gemm_perf.parquet: ") && message.contains(how), "{message}");
}

#[cfg(not(feature = "png"))]
#[test]
fn a_build_without_png_says_how_to_get_one() {
    let folder = run();
    let message = refused(folder.path(), &["report", "r", "--charts", "c", "--png"]);
    assert!(message.contains("cargo install --path . --features png"), "{message}");
}

#[cfg(not(feature = "object-store"))]
#[test]
fn a_build_without_object_storage_says_how_to_get_one() {
    let folder = TempDir::new().unwrap();
    for arguments in [
        &["sweep", "merge", "s3://bucket/a.csv", "--out", "s.csv"][..],
        &["sweep", "quickstart", "--set", "seed=1,2", "--out", "gs://bucket/s.csv"],
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains("cargo install --path . --features object-store"), "{message}");
    }
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;
    use reports::parquet::{read, write};
    use reports::tables::{Table, Values};
    use std::path::Path;

    fn parquet(path: &Path) -> (Vec<String>, Vec<Vec<String>>) {
        read("file", &std::fs::read(path).unwrap()).unwrap()
    }

    fn csv(path: &Path) -> (Vec<String>, Vec<Vec<String>>) {
        let text = std::fs::read_to_string(path).unwrap();
        let cells = |line: &str| line.split(',').map(String::from).collect::<Vec<_>>();
        let mut lines = text.lines().map(cells);
        (lines.next().unwrap(), lines.collect())
    }

    /// The tables have the columns and the cells of the CSV files of the run.
    #[test]
    fn the_tables_of_a_run_are_its_csv_rows() {
        let folder = run();
        let printed = answer(folder.path(), &["report", "r", "--parquet", "t"]);
        assert!(printed.starts_with("t/requests.parquet: 300 rows\nt/steps.parquet: "), "{printed}");
        for name in ["requests", "steps"] {
            let table = parquet(&folder.path().join(format!("t/{name}.parquet")));
            assert_eq!(table, csv(&folder.path().join(format!("r/{name}.csv"))), "{name}");
        }
        let outcomes = parquet(&folder.path().join("t/requests.parquet")).1;
        assert!(
            outcomes.iter().any(|row| row[2] == "rejected")
                && outcomes.iter().any(|row| row[2] == "finished")
        );
        let bytes =
            |folder_of: &str| std::fs::read(folder.path().join(folder_of).join("steps.parquet")).unwrap();
        answer(folder.path(), &["report", "r", "--parquet", "again"]);
        assert!(bytes("t") == bytes("again"), "the same run, the same bytes");
    }

    #[test]
    fn damaged_parquet_is_refused_with_its_name() {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("a.parquet"), "PAR1 and no more").unwrap();
        let message = refused(folder.path(), &["sweep", "merge", "a.parquet", "--out", "m.csv"]);
        assert!(message.contains("a.parquet: is no Parquet file: "), "{message}");
        let mut table = Table::default();
        table.push("point", Values::Whole(vec![Some(0)]));
        let mut bytes = Vec::new();
        write(&mut bytes, &table).unwrap();
        std::fs::write(folder.path().join("a.parquet"), bytes).unwrap();
        let message = refused(folder.path(), &["sweep", "merge", "a.parquet", "--out", "m.csv"]);
        assert!(message.contains("a.parquet: holds no rows of a sweep"), "{message}");
    }

    /// The first rows of AIConfigurator's files, as CSV and in the folders of its wheel, give the same measurements.
    #[test]
    fn parquet_files_of_aiconfigurator_import_as_their_csv() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/kernel-measurements");
        let Ok(entries) = std::fs::read_dir(&shared) else {
            println!("skipped: {} is not there", shared.display());
            return;
        };
        let folder = TempDir::new().unwrap();
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Some(stem) = name.strip_suffix(".csv.gz").filter(|stem| stem.starts_with("h200_sxm__"))
            else {
                continue;
            };
            let mut text = String::new();
            let packed = std::fs::File::open(shared.join(&name)).unwrap();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
            let text: String = text.lines().take(400).map(|line| format!("{line}\n")).collect();
            let plain = folder.path().join("csv").join(format!("{stem}.csv"));
            std::fs::create_dir_all(plain.parent().unwrap()).unwrap();
            std::fs::write(&plain, text).unwrap();
            let [system, family, software, table] = stem.split("__").collect::<Vec<_>>()[..] else {
                panic!()
            };
            let (backend, version) = software.split_once('-').unwrap();
            let wheel = folder.path().join("wheel").join(system).join(family).join(backend).join(version);
            std::fs::create_dir_all(&wheel).unwrap();
            let mut file = std::fs::File::create(wheel.join(format!("{table}.parquet"))).unwrap();
            write(&mut file, &typed(csv(&plain))).unwrap();
        }
        for engine in ["vllm", "trtllm"] {
            let import = |rows: &str| {
                let out = format!("{rows}-{engine}.csv");
                let base = ["calibrate", "import", "aiconfigurator", rows, "--system", "h200_sxm"];
                answer(folder.path(), &[&base[..], &["--engine", engine, "--out", &out]].concat());
                std::fs::read_to_string(folder.path().join(out)).unwrap()
            };
            let table = import("csv");
            assert!(table.lines().count() > 1000, "{engine}: {} rows", table.lines().count());
            assert!(table == import("wheel"), "{engine}: the measurements differ");
        }
    }

    /// Columns as numbers where all their cells are.
    fn typed((names, rows): (Vec<String>, Vec<Vec<String>>)) -> Table {
        let mut table = Table::default();
        for (index, name) in names.into_iter().enumerate() {
            let cells = || rows.iter().map(|row| row[index].clone());
            let whole: Option<Vec<_>> = cells().map(|cell| cell.parse().ok().map(Some)).collect();
            let real: Option<Vec<_>> = cells().map(|cell| cell.parse().ok().map(Some)).collect();
            let text = || Values::Text(cells().map(Some).collect());
            table.push(name, whole.map(Values::Whole).or(real.map(Values::Real)).unwrap_or_else(text));
        }
        table
    }
}

#[cfg(feature = "png")]
#[test]
fn figures_are_png_too_where_there_is_a_font() {
    let folder = run();
    let output = crate::cli::servesim(folder.path(), &["report", "r", "--charts", "c", "--png"]);
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(2) {
        assert!(text.contains("no font"), "{text}");
        return;
    }
    let png = std::fs::read(folder.path().join("c/time-to-first-token.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
    assert_eq!(width, 960);
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().filter(|name| name.ends_with(".png")).count(), 13, "{names}");
}

#[cfg(feature = "object-store")]
mod objects {
    use super::*;
    use crate::cli::servesim;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    const SWEEP: [&str; 6] = ["sweep", "quickstart", "--set", "workload.requests=50", "--set", "seed=1..6"];

    fn sweep<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&SWEEP[..], more].concat()
    }

    #[test]
    fn shards_are_merged_by_address() {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        let address = |name: &str| format!("file://{}/{name}", path.display());
        answer(path, &sweep(&["--out", "whole.csv"]));
        answer(path, &sweep(&["--out", "a.csv", "--shard", "0/2"]));
        let printed = answer(path, &sweep(&["--out", &address("b.jsonl"), "--shard", "1/2"]));
        assert!(printed.contains("file:///") && !path.join("b.jsonl.journal").exists(), "{printed}");
        let merge = ["sweep", "merge", &address("a.csv"), &address("b.jsonl"), "--out", &address("all.csv")];
        answer(path, &merge);
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        assert!(read("all.csv") == read("whole.csv"));
        let message = refused(path, &["sweep", "merge", &address("no.csv"), "--out", "m.csv"]);
        assert!(message.contains("no.csv: cannot be read: "), "{message}");
        let message = refused(path, &["sweep", "merge", "ftp://x/no.csv", "--out", "m.csv"]);
        assert!(message.contains("expected s3://bucket/name"), "{message}");
    }

    type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// As much of S3 as putting and getting whole objects takes.
    fn serve(stream: TcpStream, objects: &Objects) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let (method, path) = line.split_once(' ')?;
            let (method, path) = (method.to_string(), path.split([' ', '?']).next()?.to_string());
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                let Some((name, value)) = header.split_once(':') else { break };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let mut objects = objects.lock().ok()?;
            let (status, answer) = match method.as_str() {
                "PUT" => {
                    objects.insert(path, body);
                    ("200 OK", Vec::new())
                }
                _ => objects.get(&path).map_or(("404 Not Found", Vec::new()), |o| ("200 OK", o.clone())),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"1\"\r\nLast-Modified: Wed, 12 Oct 2022 17:50:00 \
                 GMT\r\n\r\n",
                answer.len()
            );
            writer.write_all(head.as_bytes()).ok()?;
            writer.write_all(&answer).ok()?;
        }
    }

    #[test]
    fn shards_are_merged_from_and_to_s3() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let end_point = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let shared = Arc::clone(&objects);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        let folder = TempDir::new().unwrap();
        let run = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_servesim"))
                .current_dir(folder.path())
                .args(arguments)
                .env("AWS_ENDPOINT", &end_point)
                .env("AWS_ALLOW_HTTP", "true")
                .env("AWS_REGION", "none")
                .env("AWS_ACCESS_KEY_ID", "key")
                .env("AWS_SECRET_ACCESS_KEY", "secret")
                .output()
                .unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        for (name, shard) in [("s3://sweeps/a.csv", "0/2"), ("s3://sweeps/b.csv", "1/2")] {
            let (code, text) = run(&sweep(&["--out", name, "--shard", shard]));
            assert_eq!(code, Some(0), "{text}");
        }
        let merge =
            |b: &str| run(&["sweep", "merge", "s3://sweeps/a.csv", b, "--out", "s3://sweeps/all/rows.csv"]);
        let (code, text) = merge("s3://sweeps/b.csv");
        assert_eq!(code, Some(0), "{text}");
        assert!(servesim(folder.path(), &sweep(&["--out", "whole.csv"])).status.success());
        let whole = std::fs::read(folder.path().join("whole.csv")).unwrap();
        assert!(objects.lock().unwrap().get("/sweeps/all/rows.csv") == Some(&whole));
        let (code, text) = merge("s3://sweeps/missing.csv");
        assert!(code == Some(2) && text.contains("s3://sweeps/missing.csv: cannot be read: "), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
