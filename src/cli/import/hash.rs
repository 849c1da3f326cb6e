//! Recognition of importable password hashes: bcrypt and passlib's `bcrypt_sha256`.

/// Returns `true` for a bcrypt or passlib hash with an acceptable cost.
pub(super) fn is_known(hash: &str) -> bool {
    is_bcrypt(hash) || is_bcrypt_sha256(hash)
}

/// `$2b$12$`, then a salt of 22 characters and a digest of 31.
fn is_bcrypt(hash: &str) -> bool {
    let rest = ["$2a$", "$2b$", "$2y$"].into_iter().find_map(|prefix| hash.strip_prefix(prefix));
    let Some((cost, digest)) = rest.and_then(|rest| rest.split_once('$')) else { return false };
    cost.len() == 2 && is_cost(cost) && digest.len() == 53 && digest.bytes().all(is_base64)
}

/// `$bcrypt-sha256$v=2,t=2b,r=12$`, then the salt, `$`, and the digest.
fn is_bcrypt_sha256(hash: &str) -> bool {
    let Some(rest) = hash.strip_prefix("$bcrypt-sha256$v=2,t=2b,r=") else { return false };
    let parts: Vec<_> = rest.split('$').collect();
    let [cost, salt, digest] = parts[..] else { return false };
    let lengths = salt.len() == 22 && digest.len() == 31;
    is_cost(cost) && lengths && salt.bytes().chain(digest.bytes()).all(is_base64)
}

/// Accepts the range of `login.bcrypt_cost`. A higher cost would take minutes of CPU time per sign-in.
fn is_cost(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u32>().is_ok_and(|cost| (4..=16).contains(&cost))
}

/// bcrypt's own alphabet.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/')
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
            assert!(is_bcrypt(good), "{good}");
        }
        assert!(is_bcrypt_sha256(SHA256_HASH));
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
