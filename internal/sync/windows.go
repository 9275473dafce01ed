package sync

import stdsync "sync"

// openWindows are the windows whose ticket has not been ended.
type openWindows struct {
	mu   stdsync.Mutex
	open map[*window]struct{}
}

func (o *openWindows) add(w *window) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open = make(map[*window]struct{})
	}
	o.open[w] = struct{}{}
}

// remove tells whether w was still there: whoever removes it ends its ticket.
func (o *openWindows) remove(w *window) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.open[w]
	delete(o.open, w)
	return ok
}

func (o *openWindows) takeAll() []*window {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*window
	for w := range o.open {
		all = append(all, w)
	}
	o.open = nil
	return all
}
