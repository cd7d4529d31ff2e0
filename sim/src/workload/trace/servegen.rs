//! The files of ServeGen: windows of 10 minutes with each client's rate and gaps (CSV), and windows of 6 hours with its
//! lengths (JSONL).

use super::super::MAX_TOKENS;
use super::super::shape::ServegenSpec;
use super::fields::{Read, columns, pick, wrong};
use super::lines::Lines;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Length of a window of the arrivals, in seconds.
pub(in super::super) const WINDOW_S: f64 = 600.0;

const COLUMNS: [&str; 5] = ["client", "window_start_s", "rate_rps", "cv", "family"];

/// The family of a window's gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Family {
    Gamma,
    Weibull,
}

/// One window of the arrivals, its start counted from the chosen time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct RateWindow {
    pub start_s: f64,
    pub rate_per_s: f64,
    pub cv: f64,
    pub family: Family,
}

/// Values with their weights.
pub(in super::super) type Counts = Vec<(u32, f64)>;

/// A client: windows in order of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct Client {
    pub windows: Vec<RateWindow>,
    /// Empty when the file has none of this client.
    pub lengths: Vec<LengthCounts>,
}

/// The lengths of one window, its start counted from the chosen time.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct LengthCounts {
    pub start_s: f64,
    pub prompt: Counts,
    pub output: Counts,
}

/// All clients with traffic in the chosen time, by number.
pub(in super::super) fn read_clients(spec: &ServegenSpec, base_dir: &Path) -> Result<BTreeMap<u32, Client>> {
    let mut clients = read_arrivals(spec, base_dir)?;
    read_lengths(spec, base_dir, &mut clients)?;
    for client in clients.values_mut() {
        client.windows.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
        client.lengths.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
        // Of the windows before the start only the last still holds.
        let passed =
            client.lengths.iter().take_while(|window| window.start_s <= 0.0).count().saturating_sub(1);
        client.lengths.drain(..passed);
    }
    Ok(clients)
}

fn read_arrivals(spec: &ServegenSpec, base_dir: &Path) -> Result<BTreeMap<u32, Client>> {
    let mut lines = Lines::open(&base_dir.join(&spec.arrivals))?;
    let label = lines.label().to_string();
    let mut positions = None;
    let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
    while let Some((number, text)) = lines.next_line()? {
        let row = text.and_then(|text| match &positions {
            Some(positions) => arrival_row(text, positions).map(Some),
            None => {
                positions = Some(columns(text, COLUMNS)?);
                Ok(None)
            }
        });
        let Some((client, window)) = row.map_err(|message| Error::new(message).at(&label, number, 0))? else {
            continue;
        };
        if let Some(window) = chosen(spec, client, window) {
            clients.entry(client).or_default().windows.push(window);
        }
    }
    if clients.is_empty() {
        return Err(Error::file(label, "no window of the chosen clients and time has arrivals"));
    }
    Ok(clients)
}

/// The window counted from the chosen time; none when it is left out.
fn chosen(spec: &ServegenSpec, client: u32, window: RateWindow) -> Option<RateWindow> {
    let from_s = spec.from.map_or(0.0, |from| from.0 as f64 / 1e9);
    let until_s = spec.until.map_or(f64::INFINITY, |until| until.0 as f64 / 1e9);
    let is_chosen = (from_s..until_s).contains(&window.start_s)
        && spec.clients.as_ref().is_none_or(|clients| clients.contains(&client));
    is_chosen.then_some(RateWindow { start_s: window.start_s - from_s, ..window })
}

fn arrival_row(line: &str, positions: &[usize; 5]) -> Read<(u32, RateWindow)> {
    let found = pick(line, positions, COLUMNS)?;
    let real = |index: usize, low: f64| {
        let value = found[index].parse::<f64>().ok().filter(|value| (low..=1e9).contains(value));
        value.ok_or_else(|| wrong(COLUMNS[index], found[index], &format!("a number of {low} or more")))
    };
    let client = found[0].parse().map_err(|_| wrong(COLUMNS[0], found[0], "a client's number"))?;
    let family = match found[4] {
        "Gamma" => Family::Gamma,
        "Weibull" => Family::Weibull,
        other => return Err(wrong(COLUMNS[4], other, "Gamma or Weibull")),
    };
    Ok((
        client,
        RateWindow { start_s: real(1, 0.0)?, rate_per_s: real(2, 1e-9)?, cv: real(3, 1e-6)?, family },
    ))
}

#[derive(Deserialize)]
struct LengthRow {
    client: u32,
    t: f64,
    input_tokens: Option<Given>,
    output_tokens: Option<Given>,
}

/// A histogram as whole counts or as probabilities.
#[derive(Deserialize)]
struct Given {
    c: Option<Counts>,
    p: Option<Counts>,
}

fn read_lengths(spec: &ServegenSpec, base_dir: &Path, clients: &mut BTreeMap<u32, Client>) -> Result<()> {
    let mut lines = Lines::open(&base_dir.join(&spec.lengths))?;
    let label = lines.label().to_string();
    let from_s = spec.from.map_or(0.0, |from| from.0 as f64 / 1e9);
    let until_s = spec.until.map_or(f64::INFINITY, |until| until.0 as f64 / 1e9);
    while let Some((number, text)) = lines.next_line()? {
        let row = text.and_then(|text| {
            serde_json::from_str::<LengthRow>(text).map_err(|error| {
                let text = error.to_string();
                format!("not a row of lengths: {}", text.split(" at line ").next().unwrap_or_default())
            })
        });
        let windows = row.and_then(|row| match clients.get_mut(&row.client) {
            Some(client) if row.t < until_s => {
                let prompt = counts("input_tokens", row.input_tokens)?;
                let output = counts("output_tokens", row.output_tokens)?;
                client.lengths.push(LengthCounts { start_s: row.t - from_s, prompt, output });
                Ok(())
            }
            _ => Ok(()),
        });
        windows.map_err(|message| Error::new(message).at(&label, number, 0))?;
    }
    Ok(())
}

fn counts(name: &str, given: Option<Given>) -> Read<Counts> {
    let counts = given.and_then(|given| given.c.or(given.p)).unwrap_or_default();
    if counts.is_empty() {
        return Err(format!("column {name}: is missing or empty; only clients of text models can be used"));
    }
    let good = |&(value, weight): &(u32, f64)| value <= MAX_TOKENS && (0.0..=1e15).contains(&weight);
    if let Some((value, weight)) = counts.iter().find(|pair| !good(pair)) {
        return Err(wrong(
            name,
            &format!("[{value},{weight}]"),
            &format!("tokens up to {MAX_TOKENS} and a weight"),
        ));
    }
    if counts.iter().all(|pair| pair.1 == 0.0) {
        return Err(format!("column {name}: all weights are 0"));
    }
    Ok(counts)
}
