//! In which wire forms a publication is wanted: bits whose meaning only the encodings know.

/// A set of wire forms. Each is a number below [`Forms::BITS`], given by `app`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forms(u32);

impl Forms {
    /// How many forms there can be.
    pub const BITS: u32 = u32::BITS;

    /// With `form` too.
    #[must_use]
    pub const fn with(self, form: u8) -> Self {
        Self(self.0 | 1 << form)
    }

    /// Without `form`.
    #[must_use]
    pub const fn without(self, form: u8) -> Self {
        Self(self.0 & !(1 << form))
    }

    /// All that are in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `form` is among them.
    pub const fn contains(self, form: u8) -> bool {
        self.0 & (1 << form) != 0
    }
}
