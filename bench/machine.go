package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine says where the figures come from: they mean nothing without.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	MemoryMB int64             `json:"memory_mb"`
	Kernel   string            `json:"kernel"`
	Time     time.Time         `json:"time"`
	Versions map[string]string `json:"versions"`
}

func thisMachine(ctx context.Context) machine {
	m := machine{Cores: runtime.NumCPU(), Time: time.Now().UTC().Truncate(time.Second), Versions: map[string]string{}}
	m.CPU = field("/proc/cpuinfo", "model name")
	_, _ = fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d", &m.MemoryMB)
	m.MemoryMB /= 1024
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	for name, args := range map[string][]string{
		"rephub": {binary, "--version"}, "qemu": {"qemu-system-x86_64", "--version"},
		"nbdkit": {"nbdkit", "--version"}, "nbdcopy": {"nbdcopy", "--version"}, "fio": {"fio", "--version"},
	} {
		out, _ := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		first, _, _ := strings.Cut(string(out), "\n")
		m.Versions[name] = first
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d MB, Linux %s\n%s; %s; %s; %s", m.CPU, m.Cores, m.MemoryMB, m.Kernel,
		m.Versions["rephub"], m.Versions["qemu"], m.Versions["nbdkit"], m.Versions["fio"])
}

// field returns what stands behind "name:" in a file of /proc.
func field(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		key, value, ok := strings.Cut(sc.Text(), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
