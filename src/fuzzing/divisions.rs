//! Divisions of an input into the parts in which a parser may receive it.

/// Returns some divisions of `input` into pieces: into single bytes if it is short, and into pieces of random lengths.
///
/// The divisions depend on the input alone, so that a find can be repeated.
pub(crate) fn divisions(input: &[u8]) -> [Vec<&[u8]>; 3] {
    let hash = |hash: u64, byte: &u8| hash.wrapping_mul(31).wrapping_add(u64::from(*byte));
    let mut random = fastrand::Rng::with_seed(input.iter().fold(0, hash));
    let shortest = if input.len() <= MAX_LENGTH_OF_SINGLE_BYTES { 1 } else { 64 };
    [shortest, 16.max(shortest), input.len().max(1)].map(|length| divide(input, length, &mut random))
}

/// Divides `input` into pieces of at least one byte and at most `max_length`.
pub(crate) fn divide<'i>(input: &'i [u8], max_length: usize, random: &mut fastrand::Rng) -> Vec<&'i [u8]> {
    let mut pieces = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=max_length.min(rest.len())));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Length of the longest input that is divided into single bytes. Some parsers begin anew with every piece.
const MAX_LENGTH_OF_SINGLE_BYTES: usize = 512;
