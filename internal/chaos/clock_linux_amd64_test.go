package chaos

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"
)

// The wall clock of a worker is shifted where its program meets the kernel: in the
// vDSO, the code that the kernel maps into each process to tell the time. So all
// that the program is made of has the wrong time, also the runtime, the driver and
// every package, as on a machine whose clock was set; nothing has a seam for it, and
// nothing can be forgotten. The monotonic clock goes on, as it does there. (Go asks
// libc for nothing, so libfaketime would change nothing.)

// clockOff is how many seconds the clock is ahead. The code below reads it.
var clockOff atomic.Int64

const clockShifts = true // on this platform

// shiftable makes the clock of this process one that setClock shifts. It is called
// before anything else.
func shiftable() error {
	auxv, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return err
	}
	const vdsoHeader = 33 // AT_SYSINFO_EHDR
	var base uint64
	for ; len(auxv) >= 16; auxv = auxv[16:] {
		if binary.LittleEndian.Uint64(auxv) == vdsoHeader {
			base = binary.LittleEndian.Uint64(auxv[8:])
		}
	}
	if base == 0 {
		return errors.New("the kernel maps no vDSO")
	}
	// This file writes to pages that are mapped for reading too: each process has
	// its own copy of those from then on, as a debugger's breakpoints do.
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, 16<<10)
	n, err := mem.ReadAt(image, int64(base))
	if n == 0 {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(image[:n]))
	if err != nil {
		return fmt.Errorf("vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("vDSO: %w", err)
	}
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, //         syscall: with the arguments of the call, edi and rsi
		0x85, 0xff, //         test edi, edi
		0x75, 0x10, //         jnz: not CLOCK_REALTIME, which is 0
		0x48, 0xb9, //         mov rcx, &clockOff
	}
	code = binary.LittleEndian.AppendUint64(code, uint64(uintptr(unsafe.Pointer(&clockOff))))
	code = append(code,
		0x48, 0x8b, 0x09, //   mov rcx, [rcx]
		0x48, 0x01, 0x0e, //   add [rsi], rcx: the seconds
		0xc3) //               ret
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" {
			continue
		}
		if s.Size < uint64(len(code)) {
			return fmt.Errorf("vDSO: %s has %d bytes, %d are needed", s.Name, s.Size, len(code))
		}
		_, err := mem.WriteAt(code, int64(base+s.Value))
		return err
	}
	return errors.New("vDSO: it has no __vdso_clock_gettime")
}
