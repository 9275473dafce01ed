// Package nbd speaks the Network Block Device protocol from both ends, because Go has no library that a disk can be trusted to.
//
// A Server offers exports to any NBD client; a Client reads and writes the exports of any NBD server. Only fixed newstyle
// negotiation is spoken. docs/protocol.md lists every bit of the specification and whether each side supports it.
//
// All lengths and offsets in the API are bytes. Numbers on the wire are big endian.
package nbd

// Magic numbers of both phases.
const (
	magicInit     uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicReply    uint64 = 0x0003e889045565a9 // before every option reply
	magicRequest  uint32 = 0x25609513         // NBD_REQUEST_MAGIC
	magicSimple   uint32 = 0x67446698         // NBD_SIMPLE_REPLY_MAGIC
	magicChunk    uint32 = 0x668e33ef         // NBD_STRUCTURED_REPLY_MAGIC
	magicExtReq   uint32 = 0x21e41c71         // NBD_EXTENDED_REQUEST_MAGIC
	magicExtReply uint32 = 0x6e8a278c         // NBD_EXTENDED_REPLY_MAGIC
)

// Handshake flags (server) and client flags share their two bits.
const (
	handshakeFixedNewstyle uint16 = 1 << 0 // NBD_FLAG_FIXED_NEWSTYLE
	handshakeNoZeroes      uint16 = 1 << 1 // NBD_FLAG_NO_ZEROES
)

// DefaultPort is the TCP port that IANA assigned to NBD.
const DefaultPort = "10809"

// TransmissionFlags says what an export can do.
type TransmissionFlags uint16

// Transmission flags, section "Transmission flags".
const (
	HasFlags           TransmissionFlags = 1 << 0  // NBD_FLAG_HAS_FLAGS
	ReadOnly           TransmissionFlags = 1 << 1  // NBD_FLAG_READ_ONLY
	SendFlush          TransmissionFlags = 1 << 2  // NBD_FLAG_SEND_FLUSH
	SendFUA            TransmissionFlags = 1 << 3  // NBD_FLAG_SEND_FUA
	Rotational         TransmissionFlags = 1 << 4  // NBD_FLAG_ROTATIONAL
	SendTrim           TransmissionFlags = 1 << 5  // NBD_FLAG_SEND_TRIM
	SendWriteZeroes    TransmissionFlags = 1 << 6  // NBD_FLAG_SEND_WRITE_ZEROES
	SendDF             TransmissionFlags = 1 << 7  // NBD_FLAG_SEND_DF
	CanMultiConn       TransmissionFlags = 1 << 8  // NBD_FLAG_CAN_MULTI_CONN
	SendCache          TransmissionFlags = 1 << 10 // NBD_FLAG_SEND_CACHE
	SendFastZero       TransmissionFlags = 1 << 11 // NBD_FLAG_SEND_FAST_ZERO
	BlockStatusPayload TransmissionFlags = 1 << 12 // NBD_FLAG_BLOCK_STATUS_PAYLOAD
)

// option is what a client asks during the handshake.
type option uint32

const (
	optExportName      option = 1  // NBD_OPT_EXPORT_NAME
	optAbort           option = 2  // NBD_OPT_ABORT
	optList            option = 3  // NBD_OPT_LIST
	optStartTLS        option = 5  // NBD_OPT_STARTTLS
	optInfo            option = 6  // NBD_OPT_INFO
	optGo              option = 7  // NBD_OPT_GO
	optStructuredReply option = 8  // NBD_OPT_STRUCTURED_REPLY
	optListMetaContext option = 9  // NBD_OPT_LIST_META_CONTEXT
	optSetMetaContext  option = 10 // NBD_OPT_SET_META_CONTEXT
	optExtendedHeaders option = 11 // NBD_OPT_EXTENDED_HEADERS
)

// optionReply is the type of a server's answer to an option; errors have bit 31 set.
type optionReply uint32

const (
	repAck         optionReply = 1 // NBD_REP_ACK
	repServer      optionReply = 2 // NBD_REP_SERVER
	repInfo        optionReply = 3 // NBD_REP_INFO
	repMetaContext optionReply = 4 // NBD_REP_META_CONTEXT

	repErr              optionReply = 1 << 31
	repErrUnsup                     = repErr | 1  // NBD_REP_ERR_UNSUP
	repErrPolicy                    = repErr | 2  // NBD_REP_ERR_POLICY
	repErrInvalid                   = repErr | 3  // NBD_REP_ERR_INVALID
	repErrPlatform                  = repErr | 4  // NBD_REP_ERR_PLATFORM
	repErrTLSReqd                   = repErr | 5  // NBD_REP_ERR_TLS_REQD
	repErrUnknown                   = repErr | 6  // NBD_REP_ERR_UNKNOWN
	repErrShutdown                  = repErr | 7  // NBD_REP_ERR_SHUTDOWN
	repErrBlockSizeReqd             = repErr | 8  // NBD_REP_ERR_BLOCK_SIZE_REQD
	repErrTooBig                    = repErr | 9  // NBD_REP_ERR_TOO_BIG
	repErrExtHeaderReqd             = repErr | 10 // NBD_REP_ERR_EXT_HEADER_REQD
)

// Information types of NBD_OPT_INFO and NBD_OPT_GO.
const (
	infoExport      uint16 = 0 // NBD_INFO_EXPORT
	infoName        uint16 = 1 // NBD_INFO_NAME
	infoDescription uint16 = 2 // NBD_INFO_DESCRIPTION
	infoBlockSize   uint16 = 3 // NBD_INFO_BLOCK_SIZE
)

// command is the type of a request.
type command uint16

const (
	cmdRead        command = 0 // NBD_CMD_READ
	cmdWrite       command = 1 // NBD_CMD_WRITE
	cmdDisc        command = 2 // NBD_CMD_DISC
	cmdFlush       command = 3 // NBD_CMD_FLUSH
	cmdTrim        command = 4 // NBD_CMD_TRIM
	cmdCache       command = 5 // NBD_CMD_CACHE
	cmdWriteZeroes command = 6 // NBD_CMD_WRITE_ZEROES
	cmdBlockStatus command = 7 // NBD_CMD_BLOCK_STATUS
)

// CommandFlags modify one request.
type CommandFlags uint16

// Command flags, section "Command flags".
const (
	FlagFUA      CommandFlags = 1 << 0 // NBD_CMD_FLAG_FUA: durable before the reply
	FlagNoHole   CommandFlags = 1 << 1 // NBD_CMD_FLAG_NO_HOLE: write zeroes must stay allocated
	FlagDF       CommandFlags = 1 << 2 // NBD_CMD_FLAG_DF: one content chunk
	FlagReqOne   CommandFlags = 1 << 3 // NBD_CMD_FLAG_REQ_ONE: one extent
	FlagFastZero CommandFlags = 1 << 4 // NBD_CMD_FLAG_FAST_ZERO: fail with ENOTSUP unless fast

	flagPayloadLen CommandFlags = 1 << 5 // NBD_CMD_FLAG_PAYLOAD_LEN, extended headers only
)

const chunkDone uint16 = 1 << 0 // NBD_REPLY_FLAG_DONE

// chunkType is the type of a structured or extended reply; errors have bit 15 set.
type chunkType uint16

const (
	chunkNone           chunkType = 0         // NBD_REPLY_TYPE_NONE
	chunkData           chunkType = 1         // NBD_REPLY_TYPE_OFFSET_DATA
	chunkHole           chunkType = 2         // NBD_REPLY_TYPE_OFFSET_HOLE
	chunkBlockStatus    chunkType = 5         // NBD_REPLY_TYPE_BLOCK_STATUS
	chunkBlockStatusExt chunkType = 6         // NBD_REPLY_TYPE_BLOCK_STATUS_EXT
	chunkErrBit         chunkType = 1 << 15   // set in every error chunk
	chunkError                    = 1<<15 | 1 // NBD_REPLY_TYPE_ERROR
	chunkErrorOffset              = 1<<15 | 2 // NBD_REPLY_TYPE_ERROR_OFFSET
)

// ContextAllocation is the metadata context that every export has.
const ContextAllocation = "base:allocation"

// Extent flags of base:allocation.
const (
	StateHole uint32 = 1 << 0 // NBD_STATE_HOLE
	StateZero uint32 = 1 << 1 // NBD_STATE_ZERO
)

// Sizes of headers and limits of the specification, in bytes.
const (
	requestSize     = 28
	extRequestSize  = 32
	simpleReplySize = 16
	chunkSize       = 20
	extReplySize    = 32
	maxString       = 4096
	maxMinBlock     = 1 << 16

	defaultPreferredBlock = 4096
	defaultMaxBlock       = 32 << 20
)
