//! Finds NVIDIA's libraries where users have them: on the loader's path, in a CUDA toolkit, or in the packages that
//! Python's wheels bring.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a folder with NVIDIA's libraries, before all other places.
pub const FOLDER_VARIABLE: &str = "SERVESIM_CUDA_LIB";

/// Folders that hold the driver's library on machines whose loader does not know them: containers, WSL, NixOS.
const DRIVER_FOLDERS: [&str; 4] =
    ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", "/run/opengl-driver/lib"];

/// A library that this crate uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The driver.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// Dense matrix products.
    CublasLt,
    /// Collectives.
    Nccl,
}

impl Library {
    /// Beginnings of the names of its files, in the order of loading.
    fn stems(self) -> &'static [&'static str] {
        match self {
            Library::Driver => &["libcuda.so.1"],
            Library::Nvrtc => &["libnvrtc-builtins.so.", "libnvrtc.so."],
            Library::CublasLt => &["libcublasLt.so."],
            Library::Nccl => &["libnccl.so.2"],
        }
    }

    /// Whether it can be used: it is on the loader's path, or it was found elsewhere and is loaded now.
    pub fn is_present(self) -> bool {
        if self.is_on_path() {
            return true;
        }
        let drivers = DRIVER_FOLDERS.iter().map(Path::new);
        let found = match self {
            Library::Driver => drivers.into_iter().any(|folder| self.load_from(folder)),
            _ => folders().iter().any(|folder| self.load_from(folder)),
        };
        found && self.is_on_path()
    }

    fn is_on_path(self) -> bool {
        // SAFETY: these open and close a library; NVIDIA's have no initialisers that need anything.
        unsafe {
            match self {
                Library::Driver => cudarc::driver::sys::is_culib_present(),
                Library::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                Library::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
                Library::Nccl => {
                    ["libnccl.so.2", "libnccl.so"].iter().any(|name| libloading::Library::new(*name).is_ok())
                }
            }
        }
    }

    /// Opens the files of `folder` for good: the loader then finds them by name, wherever they lie.
    fn load_from(self, folder: &Path) -> bool {
        let Ok(entries) = std::fs::read_dir(folder) else { return false };
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        self.stems().iter().all(|stem| {
            let wanted = |path: &&PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with(stem) && !name.contains(".alt.")
            };
            files.iter().rfind(wanted).is_some_and(|file| load_forever(file))
        })
    }
}

#[cfg(unix)]
fn load_forever(file: &Path) -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: NVIDIA's libraries may be opened in any process; their initialisers only set up their own state.
    match unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

#[cfg(not(unix))]
fn load_forever(_file: &Path) -> bool {
    false
}

/// Folders where the libraries may lie, most specific first.
pub fn folders() -> &'static [PathBuf] {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let mut folders: Vec<PathBuf> =
            std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from).into_iter().collect();
        let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).map(PathBuf::from);
        for home in homes.chain([PathBuf::from("/usr/local/cuda")]) {
            folders.extend([home.join("lib64"), home.join("lib")]);
        }
        let mut packages = python_path();
        packages.extend(cache_folder().map(|cache| cache.join("cuda")));
        for package in packages {
            let Ok(entries) = std::fs::read_dir(package.join("nvidia")) else { continue };
            let mut found: Vec<PathBuf> =
                entries.filter_map(|entry| Some(entry.ok()?.path().join("lib"))).collect();
            found.sort();
            // The newest CUDA first: cu13 before the folders of one library each that CUDA 12 has.
            found.sort_by_key(|folder| !folder.to_string_lossy().contains("/cu1"));
            folders.extend(found);
        }
        folders.retain(|folder| folder.is_dir());
        folders
    })
}

/// Where the Python on the path keeps packages; nothing when there is no Python.
fn python_path() -> Vec<PathBuf> {
    let output = Command::new("python3").args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// The user's folder for what can be made again.
pub fn cache_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("servesim"))
}
