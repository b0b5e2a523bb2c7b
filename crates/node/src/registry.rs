//! The registry client.

use std::{path::Path, sync::Arc};

use microsandbox_image_core::{
    GlobalCache, ImageError, Platform, PullOptions, Reference, Registry, Result,
    progress::{EventQueue, Observer},
};
use napi::Env;
use napi_derive::napi;

use crate::{
    model::parse_json,
    outcome::{guarded, without_panic},
    task::{Asker, NativeTask, Questions},
    types::{PlanText, PullText, RegistryText, ResolvedText, ResultText},
};

/// A client, made once and used for many pulls.
#[napi]
pub struct NativeRegistry {
    registry: std::result::Result<Registry, String>,
    /// How JavaScript is asked for credentials, by all tasks of this client.
    questions: Arc<Questions>,
}

#[napi]
impl NativeRegistry {
    /// Takes the options' text. What is wrong with them is told by `check`.
    #[napi(constructor)]
    pub fn new(options: String) -> Self {
        let questions = Questions::new();
        let made = without_panic(|| {
            let options = parse_json::<RegistryText>("options", &options)?;
            let cache = GlobalCache::new(Path::new(&options.cache)).with_trusted_owners(&options.trusted_owners);
            let platform = options.platform.clone().unwrap_or_default();
            let (settings, asks) = (options.settings(), options.asks_for_credentials);
            let mut client = options.into_client();
            if asks {
                client.credential_provider = Some(Arc::new(Asker(Arc::clone(&questions))));
            }
            Registry::new(cache, platform, client, settings)
        });
        let registry = made.map_err(|error| guarded::<()>(|| Err(error)));
        Self { registry, questions }
    }

    /// The outcome of making it.
    #[napi]
    pub fn check(&self) -> String {
        match &self.registry {
            Ok(registry) => guarded(|| Ok(registry.platform().clone())),
            Err(failure) => failure.clone(),
        }
    }

    /// Answers from the cache, synchronously.
    #[napi]
    pub fn pull_cached(&self, reference: String, platform: Option<String>, any_platform: Option<bool>) -> String {
        guarded(|| {
            let reference = Reference::parse(&reference)?;
            let platform = platform.map(|text| parse_json::<Platform>("platform", &text)).transpose()?;
            let allow_platform_mismatch = any_platform.unwrap_or_default();
            let options = PullOptions { platform, allow_platform_mismatch, ..PullOptions::default() };
            Ok(self.get()?.pull_cached_with(&reference, &options)?.map(ResultText::from))
        })
    }

    /// Starts a pull.
    #[napi]
    pub fn pull(&self, env: &Env, reference: String, options: String) -> napi::Result<NativeTask> {
        let (registry, cached) = (self.get().cloned(), self.get().cloned());
        let (reference_text, options_text) = (reference.clone(), options.clone());
        let at_once = move |events: &EventQueue| {
            let reference = Reference::parse(&reference_text)?;
            let options = parse_json::<PullText>("options", &options_text)?.into();
            Ok(cached?.pull_at_once(&reference, &options, events)?.map(ResultText::from))
        };
        let questions = Arc::clone(&self.questions);
        NativeTask::start_or_answer(env, questions, at_once, move |events, cancel| async move {
            let reference = Reference::parse(&reference)?;
            let options = parse_json::<PullText>("options", &options)?.into();
            let observer: Arc<dyn Observer> = events;
            let pulled = registry?.pull(&reference, &options, observer, cancel).await?;
            Ok(ResultText::from(pulled))
        })
    }

    /// Starts finding out what a pull would do.
    #[napi]
    pub fn plan(&self, env: &Env, reference: String, options: String) -> napi::Result<NativeTask> {
        let registry = self.get().cloned();
        NativeTask::start(env, Arc::clone(&self.questions), move |events, cancel| async move {
            let reference = Reference::parse(&reference)?;
            let options = parse_json::<PullText>("options", &options)?.into();
            let registry = registry?;
            tokio::select! {
                planned = registry.plan(&reference, &options, &*events) => Ok(PlanText::from(planned?)),
                () = cancel.cancelled() => Err(ImageError::aborted()),
            }
        })
    }

    /// Starts a resolve.
    #[napi]
    pub fn resolve(&self, env: &Env, reference: String, platform: Option<String>) -> napi::Result<NativeTask> {
        let registry = self.get().cloned();
        NativeTask::start(env, Arc::clone(&self.questions), move |events, cancel| async move {
            let reference = Reference::parse(&reference)?;
            let platform = platform.map(|text| parse_json::<Platform>("platform", &text)).transpose()?;
            let registry = registry?;
            tokio::select! {
                resolved = registry.resolve(&reference, platform.as_ref(), &*events) => {
                    Ok(ResolvedText::new(reference.to_string(), resolved?))
                }
                () = cancel.cancelled() => Err(ImageError::aborted()),
            }
        })
    }
}

impl NativeRegistry {
    fn get(&self) -> Result<&Registry> {
        self.registry.as_ref().map_err(|_| ImageError::internal("a client that was not made is used"))
    }
}
