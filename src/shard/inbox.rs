//! What other shards have sent, and what a room's home has to say to the members on this shard.

use super::Shard;
use super::mesh::{Down, Up};

/// Messages taken from one other shard in one turn.
const MESH_BUDGET: usize = 1024;

impl Shard {
    /// Takes in what other shards have sent.
    pub(super) fn receive_mesh(&mut self) {
        self.mesh.flush();
        for peer in 0..self.mesh.peer_count() {
            for _ in 0..MESH_BUDGET {
                let (rooms, fanout, limit) = (&self.rooms, &self.fanout, self.options.congestion_bytes());
                let has_space =
                    |room: &str| rooms.find(room).is_none_or(|id| !rooms[id].is_congested(fanout, limit));
                let down = self.mesh.receive_down(peer, |down| match down {
                    Down::Publication { room, .. } | Down::Moves { room, .. } => has_space(room),
                    Down::Joined { .. } | Down::Answer { .. } | Down::Counted { .. } => true,
                });
                let Some(down) = down else { break };
                self.receive_down(down);
            }
            for _ in 0..MESH_BUDGET {
                let (rooms, fanout, limit) = (&self.rooms, &self.fanout, self.options.congestion_bytes());
                let has_space =
                    |room: &str| rooms.find(room).is_none_or(|id| !rooms[id].is_congested(fanout, limit));
                let up = self.mesh.receive_up(peer, |up| match up {
                    Up::Say { room, .. } => has_space(room),
                    Up::Enter { .. }
                    | Up::Leave { .. }
                    | Up::Join { .. }
                    | Up::Part { .. }
                    | Up::Ask { .. }
                    | Up::Count { .. } => true,
                });
                let Some((from, up)) = up else { break };
                self.receive_up(from, up);
            }
        }
    }

    /// Takes what is for members or clients on this shard. Nothing is sent to other shards on account of it.
    pub(super) fn receive_down(&mut self, down: Down) {
        match down {
            Down::Publication { room, position, encodings } => {
                if let Some(id) = self.rooms.find(&room) {
                    self.hand_out(id, position, &encodings);
                }
            }
            Down::Moves { room, encodings } => {
                if let Some(id) = self.rooms.find(&room) {
                    self.hand_out_moves(id, &encodings);
                }
            }
            Down::Joined { ask, past } => self.joined(ask, &past),
            Down::Answer { ask, answer } => self.answered(ask, &answer),
            Down::Counted { ask, backlog } => self.counted(ask, backlog),
        }
    }
}
