//! Recognition of importable password hashes: bcrypt and passlib's `bcrypt_sha256`.

use crate::services::password::bcrypt_cost;

/// Returns `true` for a bcrypt or passlib hash whose cost is in the range of `login.bcrypt_cost`. A higher cost would
/// take minutes of CPU time per sign-in.
pub(super) fn is_known(hash: &str) -> bool {
    bcrypt_cost(hash).is_some_and(|cost| (4..=16).contains(&cost))
}

pub(super) const EXPECTED: &str =
    "expected a bcrypt hash ($2a$, $2b$, $2y$, or passlib's $bcrypt-sha256$v=2) of cost 4 to 16";

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW";
    const SHA256_HASH: &str =
        "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2";

    #[test]
    fn hashes() {
        for good in
            [HASH, &HASH.replace("$2b", "$2a"), &HASH.replace("$2b", "$2y"), &HASH.replace("$12", "$04")]
        {
            assert!(is_known(good), "{good}");
        }
        assert!(is_known(SHA256_HASH));
        for bad in [
            "",
            "hunter2",
            "$2b$12$",
            &HASH[..59],
            &format!("{HASH}a"),
            &HASH.replace("$2b", "$2x"),
            &HASH.replace("$12", "$03"),
            &HASH.replace("$12", "$17"),
            &HASH.replace("$12", "$+9"),
            &HASH.replace('E', "="),
            "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
            &SHA256_HASH.replace("v=2", "v=1"),
            &SHA256_HASH[..SHA256_HASH.len() - 1],
            "$bcrypt-sha256$2a,12$LrmaIX5x4TRtAwEfwJZa1.$2ehnw6LvuIUTM0iz4iz9hTxv21B6KFO",
        ] {
            assert!(!is_known(bad), "{bad}");
        }
    }
}
