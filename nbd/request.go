package nbd

import "encoding/binary"

// request is one request as its header tells it.
type request struct {
	cmd    command
	flags  CommandFlags
	cookie uint64
	off    uint64
	n      uint64 // length of the range in the export, bytes
	data   uint64 // bytes that follow the header
}

// parseRequest reads a compact or extended request header.
func parseRequest(p []byte, extended bool) (r request, ok bool) {
	magic := binary.BigEndian.Uint32(p)
	r.flags = CommandFlags(binary.BigEndian.Uint16(p[4:]))
	r.cmd = command(binary.BigEndian.Uint16(p[6:]))
	r.cookie = binary.BigEndian.Uint64(p[8:])
	r.off = binary.BigEndian.Uint64(p[16:])
	if extended {
		r.n = binary.BigEndian.Uint64(p[24:])
		if r.flags&flagPayloadLen != 0 {
			r.data = r.n
		}
		return r, magic == magicExtReq
	}
	r.n = uint64(binary.BigEndian.Uint32(p[24:]))
	if r.cmd == cmdWrite {
		r.data = r.n
	}
	return r, magic == magicRequest
}

// allowedFlags are the command flags that the session accepts with a command.
func (s *session) allowedFlags(cmd command) CommandFlags {
	var f CommandFlags
	if s.info.CanFUA {
		f = FlagFUA // section "Command flags": valid with every command
	}
	switch cmd {
	case cmdRead:
		if s.flags&SendDF != 0 {
			f |= FlagDF
		}
	case cmdWrite:
		if s.extended {
			f |= flagPayloadLen
		}
	case cmdWriteZeroes:
		f |= FlagNoHole
		if s.info.CanFastZero {
			f |= FlagFastZero
		}
	case cmdBlockStatus:
		f |= FlagReqOne
		if s.flags&BlockStatusPayload != 0 {
			f |= flagPayloadLen
		}
	}
	return f
}

// check says with which error a request is refused, 0 if it is not.
func (s *session) check(r *request) Errno {
	if r.flags&^s.allowed[min(int(r.cmd), len(s.allowed)-1)] != 0 {
		return EINVAL
	}
	switch r.cmd {
	case cmdRead:
		if r.n > uint64(s.info.MaxBlock) {
			if s.chunked() {
				return EOVERFLOW
			}
			return EINVAL
		}
		return s.checkRange(r, EINVAL)
	case cmdWrite:
		switch {
		case s.info.ReadOnly:
			return EPERM
		case r.n > uint64(s.info.MaxWrite), s.extended && r.flags&flagPayloadLen == 0:
			return EINVAL
		}
		return s.checkRange(r, ENOSPC)
	case cmdWriteZeroes, cmdTrim:
		return s.checkClear(r)
	case cmdFlush:
		if !s.info.CanFlush || r.off != 0 || r.n != 0 {
			return EINVAL
		}
		return 0
	case cmdCache:
		if !s.info.CanCache {
			return EINVAL
		}
		return s.checkRange(r, EINVAL)
	case cmdBlockStatus:
		switch {
		case len(s.contexts) == 0 || r.n == 0:
			return EINVAL
		case r.flags&flagPayloadLen != 0:
			return s.checkFilter(r)
		}
		return s.checkRange(r, EINVAL)
	}
	return EINVAL
}

// checkFilter checks the size of the payload form of NBD_CMD_BLOCK_STATUS: 64 bits of length and 32 bits per context.
func (s *session) checkFilter(r *request) Errno {
	if r.data < 12 || r.data > uint64(8+4*len(s.contexts)) || r.data%4 != 0 {
		return EINVAL
	}
	return 0
}

// checkClear checks the commands that write without data.
func (s *session) checkClear(r *request) Errno {
	able, beyond := s.info.CanZero, ENOSPC
	if r.cmd == cmdTrim {
		able, beyond = s.info.CanTrim, EINVAL
	}
	switch {
	case s.info.ReadOnly:
		return EPERM
	case !able:
		return EINVAL
	}
	return s.checkRange(r, beyond)
}

// checkRange checks alignment and the end of the export, beyond which the answer is beyond.
func (s *session) checkRange(r *request, beyond Errno) Errno {
	if (r.off|r.n)&uint64(s.info.MinBlock-1) != 0 {
		return EINVAL
	}
	if size := uint64(s.info.Size); r.off > size || r.n > size-r.off {
		return beyond
	}
	return 0
}
