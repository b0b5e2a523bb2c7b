//! Looks a cache through, under the budget and until it is stopped.

use tokio_util::sync::CancellationToken;

use crate::{
    budget::Extraction,
    error::{ImageError, Result},
    layer::Halt,
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
    Ok(report)
}
