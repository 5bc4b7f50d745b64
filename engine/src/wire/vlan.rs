//! 802.1Q: one tag of four octets between the source address and the EtherType.

use core::fmt;

/// Octets that a tag adds to a frame.
pub const TAG_LEN: usize = 4;

/// A VLAN identifier, 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// The identifier `id`, or `None` if it is one of the reserved values 0 and 4095 or has more than 12 bits.
    pub const fn new(id: u16) -> Option<Self> {
        if id >= 1 && id <= 4094 { Some(Self(id)) } else { None }
    }

    /// The identifier as a number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identifier in a tag's control information: the low 12 bits. Zero is a tag that carries only a priority.
#[inline]
pub(crate) const fn id_of(control: u16) -> u16 {
    control & 0x0fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_identifiers_are_refused() {
        assert_eq!(VlanId::new(0), None);
        assert_eq!(VlanId::new(4095), None);
        assert_eq!(VlanId::new(4096), None);
        assert_eq!(VlanId::new(4094).map(VlanId::get), Some(4094));
        assert_eq!(id_of(0xe001), 1);
    }
}
