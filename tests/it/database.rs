//! Opening databases, bringing them up to date, and what they keep.
