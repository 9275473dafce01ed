package qemu

// PauseMarker is for tests that play a predecessor that was killed.
const PauseMarker = pauseMarker
