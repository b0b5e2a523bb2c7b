//! The core's types in JavaScript's spelling.

mod event;
mod image;
mod options;
mod plan;

pub(crate) use event::EventText;
pub(crate) use image::{MetadataText, ResolvedText, ResultText};
pub(crate) use options::{AuthText, PullText, RegistryText, present};
pub(crate) use plan::PlanText;
