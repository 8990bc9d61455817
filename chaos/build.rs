//! Builds what is preloaded into nodes whose clock is off, so that it is a part of the suite.

use std::{env, process::Command};

fn main() {
    const SOURCE: &str = "preload/clock.rs";
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let (compiler, out) = (env::var("RUSTC").expect("set by cargo"), env::var("OUT_DIR"));
    let mut command = Command::new(compiler);
    command.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "chaos_clock"]);
    command.args(["-O", "-C", "panic=abort", "-C", "strip=symbols"]);
    command.args(["--target", &env::var("TARGET").expect("set by cargo"), "-o"]);
    command.arg(format!("{}/clock.so", out.expect("set by cargo"))).arg(SOURCE);
    let status = command.status().expect("cargo runs the compiler as well");
    assert!(status.success(), "cannot compile {SOURCE}");
}
