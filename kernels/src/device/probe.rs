//! What else is going on on the GPU, as `nvidia-smi` says: clocks, temperature, power, other processes.

use super::cuda::bus_id;
use std::process::Command;

/// State of a GPU at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuState {
    /// Clock of the multiprocessors, MHz.
    pub clock_mhz: Option<u32>,
    /// Clock of the memory, MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Power drawn, watts.
    pub power_w: Option<f64>,
}

/// What `nvidia-smi` says of a GPU. It counts all GPUs of the machine, the driver only those that CUDA_VISIBLE_DEVICES
/// leaves, which are asked for by their place on the bus.
fn query(ordinal: u32, arguments: &[&str]) -> Option<String> {
    let hidden = std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    let id = hidden.then(|| bus_id(ordinal)).flatten().unwrap_or_else(|| ordinal.to_string());
    let output = Command::new("nvidia-smi").arg(format!("--id={id}")).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// The state of GPU `ordinal`; what `nvidia-smi` does not say is absent.
pub fn gpu_state(ordinal: u32) -> GpuState {
    let fields = "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw";
    parse_state(&query(ordinal, &[fields, "--format=csv,noheader,nounits"]).unwrap_or_default())
}

/// Processes that compute on GPU `ordinal`, but this one, as `pid name`; none where `nvidia-smi` does not say.
pub fn gpu_processes(ordinal: u32) -> Vec<String> {
    let processes = query(ordinal, &["--query-compute-apps=pid,process_name", "--format=csv,noheader"]);
    parse_processes(&processes.unwrap_or_default(), std::process::id())
}

fn parse_state(text: &str) -> GpuState {
    let figures: Vec<&str> = text.split(',').map(str::trim).collect();
    let whole = |at: usize| figures.get(at).and_then(|text| text.parse().ok());
    GpuState {
        clock_mhz: whole(0),
        memory_clock_mhz: whole(1),
        temperature_c: whole(2),
        power_w: figures.get(3).and_then(|text| text.parse().ok()),
    }
}

fn parse_processes(text: &str, own: u32) -> Vec<String> {
    let others = text.lines().filter_map(|line| {
        let (pid, name) = line.split_once(',')?;
        let pid: u32 = pid.trim().parse().ok()?;
        (pid != own).then(|| format!("{pid} {}", name.trim()))
    });
    others.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nvidia_smi_prints_is_read() {
        let state = parse_state("1980, 3201, 41, 312.45");
        assert_eq!(
            (state.clock_mhz, state.memory_clock_mhz, state.temperature_c),
            (Some(1980), Some(3201), Some(41))
        );
        assert_eq!(state.power_w, Some(312.45));
        let unknown = parse_state("[N/A], [N/A], 40, [N/A]");
        assert_eq!((unknown.clock_mhz, unknown.temperature_c), (None, Some(40)));
        assert_eq!(parse_processes("17, /usr/bin/python3\n23, servesim", 23), ["17 /usr/bin/python3"]);
        assert!(parse_processes("", 1).is_empty());
    }
}
