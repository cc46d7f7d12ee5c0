//! Numbers that one part of a shard gives out and another carries without looking inside.

/// Names a room in a shard's directory of rooms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoomId(pub u32);

/// Names an audience of a shard: the members of one room that take one wire form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AudienceId(pub u32);

/// Names a subscription: a member of an audience. Stable as long as the subscription exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubId(pub u32);
