//! Objects of S3, of Google Cloud Storage, and files by address, through the crate `object_store`. Keys and end points
//! come from the environment, as the clouds' own tools read it (`AWS_*`, `GOOGLE_*`).

use anyhow::{Context, Result, bail};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// The store of an address and the object's path in it.
fn open(address: &str) -> Result<(Box<dyn ObjectStore>, Path)> {
    let unknown = || format!("{address}: expected s3://bucket/name, gs://bucket/name or file:///folder/name");
    let (scheme, rest) = address.split_once("://").with_context(unknown)?;
    let (bucket, name) = rest.split_once('/').with_context(unknown)?;
    if name.is_empty() || bucket.is_empty() != (scheme == "file") {
        bail!("{}", unknown());
    }
    let store: Box<dyn ObjectStore> = match scheme {
        "s3" => Box::new(
            AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .build()
                .with_context(|| format!("{address}: S3 cannot be used"))?,
        ),
        "gs" => Box::new(
            GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .build()
                .with_context(|| format!("{address}: Google Cloud Storage cannot be used"))?,
        ),
        "file" => Box::new(LocalFileSystem::new()),
        _ => bail!("{}", unknown()),
    };
    Ok((store, Path::parse(name).with_context(unknown)?))
}

fn run<T>(address: &str, verb: &str, work: impl Future<Output = object_store::Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(|error| {
        // The store's messages repeat themselves cause by cause.
        let text = error.to_string();
        anyhow::anyhow!("{address}: cannot be {verb}: {}", text.lines().next().unwrap_or_default())
    })
}

async fn get(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Vec<u8>> {
    Ok(store.get(path).await?.bytes().await?.to_vec())
}

/// Whether the address can be understood and the environment has what its store needs.
pub fn check(address: &str) -> Result<()> {
    open(address).map(drop)
}

/// Everything in an object.
pub fn read(address: &str) -> Result<Vec<u8>> {
    let (store, path) = open(address)?;
    run(address, "read", get(&*store, &path))
}

/// Puts an object, whole or not at all.
pub fn write(address: &str, bytes: &[u8]) -> Result<()> {
    let (store, path) = open(address)?;
    run(address, "written", async { store.put(&path, bytes.to_vec().into()).await.map(drop) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[test]
    fn objects_in_memory_and_by_address_come_back() {
        let (store, path) = (InMemory::new(), Path::from("a/rows.csv"));
        let put = async { store.put(&path, b"rows".to_vec().into()).await.map(drop) };
        run("memory", "written", put).unwrap();
        assert_eq!(run("memory", "read", get(&store, &path)).unwrap(), b"rows");
        let folder = tempfile::tempdir().unwrap();
        let address = format!("file://{}/rows.csv", folder.path().display());
        assert!(read(&address).unwrap_err().to_string().contains("rows.csv: cannot be read: "));
        write(&address, b"1,2\n").unwrap();
        assert_eq!(read(&address).unwrap(), b"1,2\n");
        assert_eq!(std::fs::read(folder.path().join("rows.csv")).unwrap(), b"1,2\n");
    }

    #[test]
    fn addresses_that_name_no_object_are_refused() {
        for bad in ["s3://bucket", "s3:///name", "gs://bucket/", "ftp://host/name", "file://name/x", "://a/b"]
        {
            let message = check(bad).unwrap_err().to_string();
            assert!(message.starts_with(bad) && message.contains("expected s3://"), "{message}");
        }
    }
}
