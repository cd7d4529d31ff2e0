//! Runs a plan within a time budget. Rows are appended and reach the disk every few calls; a run that was killed goes on
//! where it stopped.

use super::plan::PlannedCall;
use super::timer::{Timer, key};
use crate::measurement::{MeasurementTable, Origin};
use crate::write::{header_line, line};
use kernels::timing::Timing;
use sim::document::io_message;
use sim::profile::Family;
use sim::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Name of the rows' file in the folder of a run.
pub const ROWS_FILE: &str = "measurements.csv";
/// Name of the file with clocks and temperatures over the run.
pub const STATE_FILE: &str = "state.csv";

/// Name of the file with calls that failed, each with its message; they are not tried again. After a message that the call
/// ended the process stands the kind of the call.
pub const FAILED_FILE: &str = "failed.txt";
/// Name of the file with the call under way, while there is one.
pub const CURRENT_FILE: &str = "current.txt";
/// Calls of one kind that may end the process; the others of that kind are then left out.
const MOST_BREAKS: usize = 2;

/// Rows reach the disk this often at least.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Clocks and temperature are noted this often.
const STATE_EVERY: Duration = Duration::from_secs(10);

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BenchReport {
    /// Calls of the plan.
    pub planned: usize,
    /// Rows that were there from before.
    pub resumed: usize,
    /// Rows written now.
    pub timed: usize,
    /// Calls that this device or record cannot time.
    pub left_out: usize,
    /// Rows of each family, old and new.
    pub families: BTreeMap<&'static str, usize>,
    /// Whether the budget ended the run.
    pub out_of_time: bool,
    /// The first failure of a call; others are counted in `left_out`.
    pub first_failure: Option<String>,
    /// Kinds of calls that are left out, since calls of them ended the process.
    pub broken_kinds: BTreeSet<String>,
}

/// Times the calls of `plan` in order until `budget` is used up; `each` sees the number of calls dealt with.
///
/// # Errors
/// A folder that cannot be written, or rows of another device in it.
pub fn bench(
    plan: &[PlannedCall],
    timer: &Timer,
    folder: &Path,
    budget: Duration,
    mut each: impl FnMut(usize, &str),
) -> Result<BenchReport> {
    let start = Instant::now();
    let origin = timer.origin();
    std::fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    let mut rows = Rows::open(&folder.join(ROWS_FILE), &origin)?;
    let mut failed = Failed::open(folder.join(FAILED_FILE))?;
    let current = Current::open(folder.join(CURRENT_FILE), &mut failed)?;
    let mut state = State::open(&folder.join(STATE_FILE), timer)?;
    let mut report = BenchReport { planned: plan.len(), ..BenchReport::default() };
    timer.warm_up()?;
    for (number, planned) in plan.iter().enumerate() {
        let family = planned.operation.family();
        each(number, family.name());
        if rows.known.contains(&key(&planned.operation)) {
            report.resumed += 1;
            *report.families.entry(family.name()).or_default() += 1;
            continue;
        }
        if let Some(kind) = failed.broken_kind(planned) {
            report.broken_kinds.insert(kind);
            report.left_out += 1;
            continue;
        }
        if failed.known.contains(&key(&planned.operation)) {
            report.left_out += 1;
            continue;
        }
        if start.elapsed() >= budget {
            report.out_of_time = true;
            break;
        }
        state.note(timer, start)?;
        current.begin(planned)?;
        match timer.time(planned, number as u32) {
            Ok(Some(timing)) => {
                rows.append(planned, &origin, &timing)?;
                report.timed += 1;
                *report.families.entry(family.name()).or_default() += 1;
            }
            Ok(None) => report.left_out += 1,
            Err(error) => {
                report.left_out += 1;
                let is_broken = timer.is_broken();
                failed.append(
                    &key(&planned.operation),
                    &error.to_string(),
                    is_broken.then(|| kind(planned)),
                )?;
                if is_broken {
                    rows.sync()?;
                    current.end();
                    return Err(Error::new(format!(
                        "{error}; the GPU takes no more work from this process, and the same command goes on without \
                         this call"
                    )));
                }
                report.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
    current.end();
    each(if report.out_of_time { report.resumed + report.timed } else { plan.len() }, "");
    rows.sync()?;
    Ok(report)
}

fn at(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path.display().to_string(), io_message(error))
}

/// The growing file of rows.
struct Rows {
    label: std::path::PathBuf,
    file: File,
    known: HashSet<String>,
    synced: Instant,
}

impl Rows {
    /// Opens the file, cuts an unfinished last line off, and learns which calls it has.
    fn open(path: &Path, origin: &Origin) -> Result<Rows> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.map_err(|error| at(path, &error))?;
        let text = std::fs::read(path).map_err(|error| at(path, &error))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut known = HashSet::new();
        let lines = text[..whole].iter().filter(|byte| **byte == b'\n').count();
        if lines > 1 {
            let table = MeasurementTable::parse(&path.display().to_string(), &text[..whole])?;
            if let Some(other) = table.origins.iter().find(|other| *other != origin) {
                return Err(Error::file(
                    path.display().to_string(),
                    format!(
                        "holds rows of {} ({}; {}), this run is on {} ({}; {}): give another folder with --out",
                        other.gpu, other.software, other.source, origin.gpu, origin.software, origin.source
                    ),
                ));
            }
            known.extend(table.rows.iter().map(|row| key(&row.operation)));
        }
        let keep = if lines == 0 { 0 } else { whole as u64 };
        file.set_len(keep).map_err(|error| at(path, &error))?;
        file.seek(SeekFrom::End(0)).map_err(|error| at(path, &error))?;
        if keep == 0 {
            file.write_all(&header_line()?).map_err(|error| at(path, &error))?;
        }
        Ok(Rows { label: path.to_path_buf(), file, known, synced: Instant::now() })
    }

    fn append(&mut self, planned: &PlannedCall, origin: &Origin, timing: &Timing) -> Result<()> {
        let mut note = format!("{} samples", timing.samples);
        if let Some(eager) = timing.eager_seconds {
            note += &format!("; {:.2} us without a graph", eager * 1e6);
        }
        if let Some(stream) = planned.stream {
            note += &format!("; {stream:?}");
        }
        let row = line(&planned.operation, origin, (timing.seconds, timing.spread_seconds), &note)?;
        self.file.write_all(&row).map_err(|error| at(&self.label, &error))?;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|error| at(&self.label, &error))
    }
}

/// Everything of a call that selects the kernel rather than its size.
fn kind(planned: &PlannedCall) -> String {
    format!("{} {}", planned.operation.family().name(), planned.operation.variant())
}

/// Calls that failed.
struct Failed {
    path: std::path::PathBuf,
    known: HashSet<String>,
    /// Calls of each kind that ended the process.
    breaks: BTreeMap<String, usize>,
}

impl Failed {
    fn open(path: std::path::PathBuf) -> Result<Failed> {
        let text = read_if_there(&path)?;
        let (mut known, mut breaks) = (HashSet::new(), BTreeMap::new());
        for line in text.lines() {
            let mut cells = line.split('\t');
            known.extend(cells.next().map(str::to_string));
            if let Some(kind) = cells.nth(1) {
                *breaks.entry(kind.to_string()).or_default() += 1;
            }
        }
        Ok(Failed { path, known, breaks })
    }

    /// The kind of a call, when too many of it ended the process.
    fn broken_kind(&self, planned: &PlannedCall) -> Option<String> {
        if self.breaks.is_empty() {
            return None;
        }
        Some(kind(planned)).filter(|kind| self.breaks.get(kind).is_some_and(|breaks| *breaks >= MOST_BREAKS))
    }

    fn append(&mut self, call: &str, message: &str, broken: Option<String>) -> Result<()> {
        let message = message.replace(['\n', '\t'], " ");
        let broken = broken.map_or(String::new(), |kind| format!("\t{kind}"));
        let line = format!("{call}\t{message}{broken}\n");
        let opened = OpenOptions::new().append(true).create(true).open(&self.path);
        let written = opened.and_then(|mut file| {
            file.write_all(line.as_bytes())?;
            file.sync_data()
        });
        written.map_err(|error| at(&self.path, &error))
    }
}

fn read_if_there(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(at(path, &error)),
    }
}

/// The call under way, for the next process should this one end in it: once may be somebody's stop, twice is the call's own.
struct Current {
    path: std::path::PathBuf,
    /// The call in which the last process ended.
    before: String,
}

impl Current {
    fn open(path: std::path::PathBuf, failed: &mut Failed) -> Result<Current> {
        let text = read_if_there(&path)?;
        let cells: Vec<&str> = text.trim_end().split('\t').collect();
        if let [call, kind, _again] = cells[..] {
            failed.append(call, "the process ended twice in this call", Some(kind.to_string()))?;
            *failed.breaks.entry(kind.to_string()).or_default() += 1;
            failed.known.insert(call.to_string());
        }
        let before = cells.first().map_or(String::new(), |call| (*call).to_string());
        Ok(Current { path, before })
    }

    fn begin(&self, planned: &PlannedCall) -> Result<()> {
        let call = key(&planned.operation);
        let again = if call == self.before { "\tagain" } else { "" };
        let text = format!("{call}\t{}{again}\n", kind(planned));
        std::fs::write(&self.path, text).map_err(|error| at(&self.path, &error))
    }

    fn end(&self) {
        // It may not be there, and what stays costs the next run one line.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Clocks, temperature and power over the run.
struct State {
    file: Option<(File, std::path::PathBuf)>,
    last: Option<Instant>,
}

impl State {
    fn open(path: &Path, timer: &Timer) -> Result<State> {
        if timer.state().is_none() {
            return Ok(State { file: None, last: None });
        }
        let is_new = !path.exists();
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let mut file = opened.map_err(|error| at(path, &error))?;
        if is_new {
            let header = b"elapsed_s,clock_mhz,memory_clock_mhz,temperature_c,power_w\n";
            file.write_all(header).map_err(|error| at(path, &error))?;
        }
        Ok(State { file: Some((file, path.to_path_buf())), last: None })
    }

    fn note(&mut self, timer: &Timer, start: Instant) -> Result<()> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        if self.last.is_some_and(|last| last.elapsed() < STATE_EVERY) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let Some(state) = timer.state() else { return Ok(()) };
        let whole = |figure: Option<u32>| figure.map_or(String::new(), |figure| figure.to_string());
        let row = format!(
            "{:.0},{},{},{},{}\n",
            start.elapsed().as_secs_f64(),
            whole(state.clock_mhz),
            whole(state.memory_clock_mhz),
            whole(state.temperature_c),
            state.power_w.map_or(String::new(), |watts| format!("{watts:.0}"))
        );
        file.write_all(row.as_bytes()).map_err(|error| at(path, &error))
    }
}

/// Calls of each family in a plan, and of how many there are in all.
pub fn family_counts(plan: &[PlannedCall]) -> BTreeMap<Family, usize> {
    let mut counts = BTreeMap::new();
    for planned in plan {
        *counts.entry(planned.operation.family()).or_default() += 1;
    }
    counts
}
