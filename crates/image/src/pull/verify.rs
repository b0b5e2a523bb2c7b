//! Looks a cache through; what was extracted anew is fitted to the layers below it, as after a pull.

use tokio_util::sync::CancellationToken;

use crate::{
    budget::Extraction,
    error::{ImageError, Result},
    fs::LockWait,
    layer::Halt,
    model::Digest,
    pull::fixup::fit_to_lower_layers,
    store::{Depth, GlobalCache, VerifyOptions, VerifyReport},
};

/// Looks for damage and, if asked to, mends it.
///
/// Damage is in the report, not an error. Fails with `ERR_ABORTED` once `cancel` is, with `ERR_IO`, `ERR_CACHE`.
pub async fn verify(cache: &GlobalCache, options: VerifyOptions, cancel: CancellationToken) -> Result<VerifyReport> {
    let halt = Halt::default();
    let looking = async {
        let unpacks = options.repair || options.depth == Depth::Content;
        let _place = if unpacks { Some(Extraction::outside_of_pulls().await) } else { None };
        let (cache, halt) = (cache.clone(), halt.clone());
        tokio::task::spawn_blocking(move || cache.look_through(options, &halt)).await
    };
    let stop = async {
        cancel.cancelled().await;
        halt.abort();
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        looked = looking => looked.map_err(|_| ImageError::internal("verifying panicked"))??,
        () = stop => return Err(ImageError::aborted()),
    };
    fit(cache, &report, LockWait { cancel, ..LockWait::default() }).await?;
    Ok(report)
}

/// Every image that has such a layer, since a layer's neighbours may depend on it as well.
async fn fit(cache: &GlobalCache, report: &VerifyReport, wait: LockWait) -> Result<()> {
    if report.extracted.is_empty() {
        return Ok(());
    }
    let of = cache.clone();
    let images = tokio::task::spawn_blocking(move || of.images());
    let images = images.await.map_err(|_| ImageError::internal("listing images panicked"))??;
    for image in images.into_iter().filter(|image| image.complete) {
        let layers: &[Digest] = &image.layer_digests;
        if layers.iter().any(|layer| report.extracted.contains(layer)) {
            fit_to_lower_layers(cache, &wait, layers).await?;
        }
    }
    Ok(())
}
