//! Manifests that run the shards of a sweep on a cluster.

/// What a manifest runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the job.
    pub name: String,
    /// The scenario's file as the machines of the cluster see it.
    pub scenario: String,
    /// Arguments of `servesim sweep` after the scenario, without `--shard` and `--out`.
    pub arguments: Vec<String>,
    /// How many shards.
    pub shards: usize,
    /// The folder that all shards write to.
    pub folder: String,
    /// The container image that holds servesim.
    pub image: String,
    /// The Kueue queue (Kubernetes) or the partition (Slurm), where one is asked for.
    pub queue: Option<String>,
    /// Cores of each shard.
    pub cpus: u32,
}

/// The text as one word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Manifest {
    fn command(&self, index: &str) -> String {
        let arguments: Vec<String> = self.arguments.iter().map(|argument| quoted(argument)).collect();
        format!(
            "servesim sweep {} {} --threads {} --shard {index}/{} --out {}/shard-{index}.csv",
            quoted(&self.scenario),
            arguments.join(" "),
            self.cpus,
            self.shards,
            quoted(&self.folder)
        )
    }
}

/// A Kubernetes Indexed Job (batch/v1): one pod per shard, its index from `JOB_COMPLETION_INDEX`; a pod that is lost
/// starts again and goes on from its journal. With a queue it waits for Kueue to admit it.
pub fn kubernetes(manifest: &Manifest) -> String {
    let Manifest { name, shards, image, cpus, folder, .. } = manifest;
    let (labels, suspend) = match &manifest.queue {
        Some(queue) => (format!("\n  labels:\n    kueue.x-k8s.io/queue-name: {queue}"), "\n  suspend: true"),
        None => (String::new(), ""),
    };
    let command = manifest.command("${JOB_COMPLETION_INDEX}");
    format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: {name}{labels}
spec:{suspend}
  completionMode: Indexed
  completions: {shards}
  parallelism: {shards}
  backoffLimitPerIndex: 3
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: sweep
          image: {image}
          command: [/bin/sh, -c]
          args:
            - >-
              exec {command}
          resources:
            requests: {{ cpu: \"{cpus}\", memory: 1Gi }}
            limits: {{ cpu: \"{cpus}\", memory: 4Gi }}
          volumeMounts:
            - {{ name: sweep, mountPath: {folder} }}
      volumes:
        # A volume that all pods can write to, with the scenario in it.
        - name: sweep
          persistentVolumeClaim: {{ claimName: {name} }}
"
    )
}

/// A Slurm job array: one task per shard, its index from `SLURM_ARRAY_TASK_ID`.
pub fn slurm(manifest: &Manifest) -> String {
    let partition =
        manifest.queue.as_ref().map_or(String::new(), |queue| format!("#SBATCH --partition={queue}\n"));
    let index = "${SLURM_ARRAY_TASK_ID}";
    format!(
        "#!/bin/sh
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem=4G
#SBATCH --requeue
{partition}set -eu
mkdir -p {folder}
exec {command}
",
        name = manifest.name,
        last = manifest.shards.saturating_sub(1),
        cpus = manifest.cpus,
        folder = quoted(&manifest.folder),
        command = manifest.command(index),
    )
}
