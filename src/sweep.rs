//! `servesim sweep`: one run per combination of values, one row per run.

use crate::output;
use crate::place::Place;
use crate::progress;
use crate::sweep_file;
use crate::sweep_table;
use anyhow::{Result, bail};
use planner::sweep::{self, Journal, Manifest, Row, Shard, Sweep};
use reports::numbers::{counted, grouped};
use std::process::ExitCode;

/// Arguments of `sweep`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    points: Option<Points>,
    /// Write one row per point to this .csv, .jsonl or .parquet file or address (s3://, gs://, file://)
    #[arg(long, value_name = "FILE", required = true)]
    out: Option<String>,
    /// Run only this part of the points, i of n with i from 0; `sweep merge` puts the parts together
    #[arg(long, value_name = "I/N")]
    shard: Option<String>,
    /// Threads that simulate [default: one per core]; the rows do not depend on it
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
}

/// What to run.
#[derive(clap::Args)]
struct Points {
    /// A scenario file, or the name of a ready-made one
    scenario: String,
    /// Values of a key: --set engine.max_num_seqs=64,128 or --set deployment.replicas=1..4 or
    /// --set workload.arrivals.poisson=2/s..20/s:2; one value alone is an override
    #[arg(long = "set", value_name = "KEY=VALUES")]
    set: Vec<String>,
    /// Draw this many points as a Latin hypercube instead of every combination
    #[arg(long, value_name = "COUNT")]
    sample: Option<usize>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Put the files of all shards together
    Merge(MergeArguments),
    /// The rows as a table: a line per combination, seeds averaged with 95 % intervals
    Table(sweep_table::Arguments),
    /// Write a manifest that runs the shards on a cluster
    Manifest(ManifestArguments),
}

#[derive(clap::Args)]
struct MergeArguments {
    /// The files of the shards, or their addresses: s3://bucket/name, gs://bucket/name, file:///folder/name
    #[arg(required = true)]
    files: Vec<String>,
    /// The file or address to write all rows to
    #[arg(long, value_name = "FILE")]
    out: String,
}

#[derive(clap::Args)]
struct ManifestArguments {
    #[command(flatten)]
    points: Points,
    /// How many shards
    #[arg(long, value_name = "COUNT")]
    shards: usize,
    /// A Kubernetes Indexed Job
    #[arg(long, conflicts_with = "slurm", required_unless_present = "slurm", requires = "image")]
    kubernetes: bool,
    /// A Slurm job array
    #[arg(long)]
    slurm: bool,
    /// The container image that holds servesim (Kubernetes)
    #[arg(long)]
    image: Option<String>,
    /// The Kueue queue (Kubernetes) or the partition (Slurm)
    #[arg(long)]
    queue: Option<String>,
    /// Name of the job
    #[arg(long, default_value = "servesim-sweep")]
    name: String,
    /// The folder that all shards write to
    #[arg(long, default_value = "/sweep")]
    folder: String,
    /// Cores of each shard
    #[arg(long, default_value_t = 4)]
    cpus: u32,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match (&arguments.command, &arguments.points, &arguments.out) {
        (Some(Command::Merge(arguments)), ..) => merge(arguments),
        (Some(Command::Table(arguments)), ..) => sweep_table::run(arguments),
        (Some(Command::Manifest(arguments)), ..) => manifest(arguments),
        (None, Some(points), Some(out)) => run_points(arguments, points, &Place::new(out)),
        _ => bail!("sweep: expected a scenario and --out FILE"),
    }
}

fn run_points(arguments: &Arguments, points: &Points, out: &Place) -> Result<ExitCode> {
    progress::set_threads(arguments.threads)?;
    sweep_file::check(out)?;
    let shard = arguments.shard.as_deref().map_or(Ok(Shard::WHOLE), Shard::parse)?;
    let sweep = Sweep::load(&points.scenario, &points.set, points.sample)?;
    let journal = Journal::open(&out.beside(".journal"), &sweep, shard)?;
    let open = sweep.points_of(shard).filter(|point| !journal.has(*point)).count();
    let known = journal.rows().len();
    if known > 0 {
        output::note(&format!("going on: {} in the journal, {open} left", counted(known as u64, "point")));
    }
    let bar = progress::bar(open as u64, "points");
    let rows = sweep.run(shard, &journal, &|| bar.inc(1));
    bar.finish_and_clear();
    let rows = rows?;
    let failed = rows.iter().filter(|row| is_error(&sweep, row)).count();
    sweep_file::write(out, &sweep.columns(), &rows)?;
    journal.remove()?;
    let points = counted(rows.len() as u64, "point");
    output::print(&format!("{points}, {} could not run: {}\n", grouped(failed as u64), out.label()))?;
    Ok(ExitCode::SUCCESS)
}

fn is_error(sweep: &Sweep, row: &Row) -> bool {
    let status = sweep.columns().iter().position(|column| column.name == "status");
    status.and_then(|index| row.cells.get(index)).is_some_and(|cell| cell == "error")
}

fn merge(arguments: &MergeArguments) -> Result<ExitCode> {
    let out = Place::new(&arguments.out);
    sweep_file::check(&out)?;
    let mut columns = None;
    let mut shards = Vec::new();
    for file in &arguments.files {
        let (found, rows) = sweep_file::read(&Place::new(file))?;
        match &columns {
            None => columns = Some(found),
            Some(known) if *known == found => {}
            Some(_) => {
                bail!("{file}: has other columns than {}: is it of another sweep?", arguments.files[0])
            }
        }
        shards.push((file.clone(), rows));
    }
    let rows = sweep::merge(shards)?;
    sweep_file::write(&out, &columns.unwrap_or_default(), &rows)?;
    output::print(&format!("{}: {}\n", counted(rows.len() as u64, "point"), arguments.out))?;
    Ok(ExitCode::SUCCESS)
}

/// What stands in the manifest as it is must not end a line or a word there.
fn check_words(arguments: &ManifestArguments) -> Result<()> {
    let words = [
        ("--name", Some(&arguments.name)),
        ("--image", arguments.image.as_ref()),
        ("--queue", arguments.queue.as_ref()),
        ("--folder", Some(&arguments.folder)),
    ];
    for (option, word) in words {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
        if let Some(word) = word.filter(|word| word.is_empty() || !word.chars().all(is_plain)) {
            bail!("{option}: found `{word}`, expected letters, digits and any of - _ . / : @");
        }
    }
    Ok(())
}

fn manifest(arguments: &ManifestArguments) -> Result<ExitCode> {
    let points = &arguments.points;
    let sweep = Sweep::load(&points.scenario, &points.set, points.sample)?;
    if !(1..=sweep.len()).contains(&arguments.shards) {
        bail!("--shards: found {}, expected 1 to {}, the number of points", arguments.shards, sweep.len());
    }
    check_words(arguments)?;
    let mut words: Vec<String> =
        points.set.iter().flat_map(|set| ["--set".to_string(), set.clone()]).collect();
    words.extend(points.sample.iter().flat_map(|count| ["--sample".to_string(), count.to_string()]));
    let manifest = Manifest {
        name: arguments.name.clone(),
        scenario: points.scenario.clone(),
        arguments: words,
        shards: arguments.shards,
        folder: arguments.folder.clone(),
        image: arguments.image.clone().unwrap_or_default(),
        queue: arguments.queue.clone(),
        cpus: arguments.cpus,
    };
    output::print(&if arguments.slurm { sweep::slurm(&manifest) } else { sweep::kubernetes(&manifest) })?;
    Ok(ExitCode::SUCCESS)
}
