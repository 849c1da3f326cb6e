//! Builds again when a migration is added: `sqlx::migrate!` embeds the folder, and the compiler
//! watches only the files that were in it.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
