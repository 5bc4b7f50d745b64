//! Compiles the XDP program with clang, so that what is loaded is always what the source says.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const SOURCE: &str = "bpf/syncline.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=BPF_CLANG");

    let clang = std::env::var("BPF_CLANG").unwrap_or_else(|_| "clang".to_owned());
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let object = out_dir.join("syncline.bpf.o");

    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3", "-c", SOURCE, "-o"]);
    command.arg(&object);
    // <linux/types.h> needs <asm/types.h>, which Debian keeps in a directory per architecture that the BPF target
    // does not search.
    if let Some(directory) = multiarch_include() {
        command.arg("-idirafter").arg(directory);
    }
    // The absolute paths of the build machine stay out of the debug information.
    command.arg("-fdebug-compilation-dir=.");

    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!(
            "{clang} could not compile {SOURCE}:\n{}\nIf a header is missing: apt-get install libbpf-dev linux-libc-dev",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => fail(&format!(
            "the XDP program is compiled with clang, and {clang} does not run ({error}): \
             apt-get install clang llvm libbpf-dev linux-libc-dev libelf-dev zlib1g-dev m4 make pkg-config"
        )),
    }
}

fn multiarch_include() -> Option<PathBuf> {
    let machine = std::env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let host = std::env::var("HOST").unwrap_or_default();
    let machine = if host.starts_with(&machine) { machine } else { host.split('-').next()?.to_owned() };
    let directory = Path::new("/usr/include").join(format!("{machine}-linux-gnu"));
    directory.join("asm/types.h").exists().then_some(directory)
}

fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
