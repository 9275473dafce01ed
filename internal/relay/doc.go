// Package relay ships numbered journals to another machine over one connection,
// so that both hold the same batches under the same serials; what else the two
// have to say to each other goes beside it, in calls and in pipes.
//
// A connection begins, in both directions, with a preface frame. All numbers are
// little-endian. A frame is
//
//	 0  4  length of the body, at most 1 MiB
//	 4  1  type
//	 5  1  flags: bit 0: the body is compressed (S2 block); data frames only
//	 6  2  stream; 0 is the connection itself. Either side numbers the streams that
//	       it opens; bit 15: the one that gets the frame has opened the stream
//	 8  4  crc32c of the body as sent
//	12     body
//
// and its types are
//
//	 1  preface  stream 0: magic "rephubRL", version (4), zero (4)
//	 2  ping     stream 0: nothing; sent after a silence of our own
//	 3  request  stream 0: JSON {id, method, params}
//	 4  reply    stream 0: JSON {id, result} or {id, code, error}
//	 5  cancel   stream 0: JSON {id}: the caller does not wait any more
//	16  open     the sender's Hello, JSON: begins a group's stream
//	17  answer   where the receiver is and the window, JSON; of a pipe, the window
//	18  data     a piece of the stream's bytes
//	19  grant    bytes that the sender may send on top (8)
//	20  ack      durable at the receiver: serial (8), seq (8), epoch (8), newest
//	             point (8), seq of the last fence (8), flags (8): bit 0: the range
//	             is open
//	21  stall    JSON {reason}: why the receiver takes no more; empty: it does again
//	22  close    JSON {code, reason}; a stream is over when both sides have sent it
//	23  pipe     JSON {name, window}: begins a pipe, of which both sides send data
//	             and grants
//
// The bytes of a group's stream, wherever frames cut them, are batches one after the
// other: serial (8), epoch (8), first seq (8), bytes of entries (4), kind (1),
// zero (3), then the entries exactly as the sender's journal has them. Window
// and grants count these bytes, as they are before compression.
//
// Whatever the peer does, a connection keeps in memory at most: the windows it
// granted (one batch more per group), one frame, two of each stream that sends,
// and maxCalls requests and replies of maxControl bytes. A peer that exceeds
// them loses the connection.
package relay
