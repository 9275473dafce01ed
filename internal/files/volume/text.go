package volume

import (
	"hash/crc32"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/rephub/rephub/internal/files/tree"
)

func ieee(p []byte) uint32 { return crc32.ChecksumIEEE(p) }

func utf16Text(p []byte) string {
	var u []uint16
	for ; len(p) >= 2 && le.Uint16(p) != 0; p = p[2:] {
		u = append(u, le.Uint16(p))
	}
	return string(utf16.Decode(u))
}

// section is a part of LVM's text: values are string, int64, []any or section.
type section map[string]any

func (s section) sub(name string) section { v, _ := s[name].(section); return v }
func (s section) number(name string) int64 {
	v, _ := s[name].(int64)
	return v
}
func (s section) text(name string) string { v, _ := s[name].(string); return v }
func (s section) list(name string) []any  { v, _ := s[name].([]any); return v }

const maxNesting = 16

// parser reads LVM's text: NAME = VALUE, NAME { ... }, and comments.
type parser struct {
	tokens []string // strings begin with a quote
}

// parse reads a text that is whole.
func parse(text string) (section, error) {
	p := &parser{tokens: split(text)}
	s, err := p.section(0)
	if err == nil && len(p.tokens) > 0 {
		err = tree.Damaged("LVM's text")
	}
	return s, err
}

// split makes tokens.
func split(text string) (all []string) {
	for len(text) > 0 {
		c := text[0]
		switch {
		case c == '#':
			_, text, _ = strings.Cut(text, "\n")
		case c == '"':
			end := 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end, len(text))
			all = append(all, text[:end])
			text = text[min(end+1, len(text)):]
		case strings.IndexByte("{}[]=,", c) >= 0:
			all = append(all, text[:1])
			text = text[1:]
		case c <= ' ':
			text = text[1:]
		default:
			end := strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || strings.ContainsRune("{}[]=,#\"", r) })
			if end < 0 {
				end = len(text)
			}
			all = append(all, text[:end])
			text = text[end:]
		}
	}
	return all
}

func (p *parser) take() string {
	if len(p.tokens) == 0 {
		return ""
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t
}

func (p *parser) section(depth int) (section, error) {
	s := section{}
	bad := tree.Damaged("LVM's text")
	for len(p.tokens) > 0 && p.tokens[0] != "}" {
		name := p.take()
		var err error
		switch p.take() {
		case "=":
			s[name], err = p.value(depth)
		case "{":
			if depth >= maxNesting {
				return nil, bad
			}
			s[name], err = p.section(depth + 1)
			if err == nil && p.take() != "}" {
				err = bad
			}
		default:
			err = bad
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (p *parser) value(depth int) (any, error) {
	t := p.take()
	switch {
	case t == "[":
		var all []any
		for depth < maxNesting && len(p.tokens) > 0 {
			switch p.tokens[0] {
			case "]":
				p.take()
				return all, nil
			case ",":
				p.take()
				continue
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
	case strings.HasPrefix(t, `"`):
		return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(t[1:]), nil
	default:
		if n, err := strconv.ParseInt(t, 10, 64); err == nil {
			return n, nil
		}
		if _, err := strconv.ParseFloat(t, 64); err == nil {
			return t, nil
		}
	}
	return nil, tree.Damaged("LVM's text")
}
