//! Tells the linker how an addon is loaded.
fn main() {
    napi_build::setup();
}
