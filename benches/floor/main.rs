#![expect(unreachable_pub, reason = "a benchmark is one program; its modules share what they need")]
//! The server beside the floor: a bare loop of `send(2)` over as many sockets, with the same bytes at the
//! same pace, in the same run. What is printed is CPU time of the server for each delivery, and its ratio to
//! the floor's.
//!
//! ```text
//! cargo bench --bench floor                    # every row
//! cargo bench --bench floor -- one flood       # these rows
//! cargo bench --bench floor -- table           # the drivers beside the floor, by size and members
//! cargo bench --bench floor -- json rooms      # JSON members in one room; many rooms of ten members
//! cargo bench --bench floor -- streams      # server-sent events and lines of JSON, to WebSocket
//! cargo bench --bench floor -- send send-pipelined   # messages by request, into rooms without members
//! cargo bench --bench floor -- --driver uring  # on this driver only, or on several: uring,epoll
//! cargo bench --bench floor -- --rounds 5      # more rounds; the median of each is printed
//! cargo bench --bench floor -- --record FILE   # a line of JSON for each row, beside the table
//! cargo bench --bench floor -- compare OLD NEW # two such files; ends with 1 when a ratio to the floor has grown by a tenth
//! cargo bench --bench floor -- --server PATH --arguments "serve …"   # another server of the same protocol
//! cargo bench --bench floor -- --old PATH --rounds 15 --seconds 1.5 one flood   # an older build beside this one, without the floor: ends
//!                                              # with 1 when a median is worse than it may be (see `compare`)
//! ```
//!
//! The server is pinned to the first core, the client to the last. Rounds of floor and server alternate. One
//! process holds all clients, so the limit on open files bounds their number.

mod bare;
mod client;
mod compare;
mod posts;
mod process;
mod protocol;
mod record;
mod rows;
mod streams;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("bare") => bare::run(),
        Some("compare") if compares(&arguments) => {}
        Some("compare") => std::process::exit(1),
        _ if rows::run(&rows::Plan::parse(&arguments)) => {}
        _ => std::process::exit(1),
    }
}

/// Whether the second of two recordings is no worse than the first.
fn compares(arguments: &[String]) -> bool {
    match arguments {
        [_, old, new] => record::compare(old, new),
        _ => panic!("compare takes two files that --record has written"),
    }
}
