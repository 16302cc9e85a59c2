package tickstorm

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Code is the reason that an edge gives in ERROR for closing a connection. An edge of a later
// version may give others than these.
type Code string

// The error codes of version 1. docs/protocol.md, section Errors, explains them.
const (
	CodeBadMagic             Code = "BAD_MAGIC"
	CodeUnsupportedVersion   Code = "UNSUPPORTED_VERSION"
	CodeUnknownType          Code = "UNKNOWN_TYPE"
	CodeMessageTooLarge      Code = "MESSAGE_TOO_LARGE"
	CodeBadChecksum          Code = "BAD_CHECKSUM"
	CodeMalformedPayload     Code = "MALFORMED_PAYLOAD"
	CodeAuthRequired         Code = "AUTH_REQUIRED"
	CodeAuthFailed           Code = "AUTH_FAILED"
	CodeAlreadyAuthenticated Code = "ALREADY_AUTHENTICATED"
	CodeAuthTimeout          Code = "AUTH_TIMEOUT"
	CodeAuthRateLimited      Code = "AUTH_RATE_LIMITED"
	CodeInvalidSubscription  Code = "INVALID_SUBSCRIPTION"
	CodeUnexpectedMessage    Code = "UNEXPECTED_MESSAGE"
	CodeRateLimited          Code = "RATE_LIMITED"
	CodeHeartbeatTimeout     Code = "HEARTBEAT_TIMEOUT"
	CodeSlowConsumer         Code = "SLOW_CONSUMER"
	CodeTimeStepped          Code = "TIME_STEPPED"
	CodeServerFull           Code = "SERVER_FULL"
	CodeServerDraining       Code = "SERVER_DRAINING"
	CodeNoTime               Code = "NO_TIME"
	CodeTooManyConnections   Code = "TOO_MANY_CONNECTIONS"
	CodeInternal             Code = "INTERNAL"
)

// comeBack is what a client does after a connection ended or could not be made. It first waits in
// any case.
type comeBack int

const (
	// comeBackNo: the same bytes will fail again at this address.
	comeBackNo comeBack = iota
	comeBackAtOnce
	comeBackWithoutResume
	// comeBackRetryResume: once more with the resume point, then without it. Without a resume
	// point, it means comeBackNo.
	comeBackRetryResume
	comeBackLater
	comeBackElsewhere
)

func (c Code) comeBack() comeBack {
	switch c {
	case CodeBadMagic, CodeUnsupportedVersion, CodeUnknownType, CodeMessageTooLarge,
		CodeMalformedPayload, CodeAuthRequired, CodeAuthFailed, CodeAlreadyAuthenticated,
		CodeUnexpectedMessage:
		return comeBackNo
	case CodeBadChecksum, CodeHeartbeatTimeout, CodeSlowConsumer:
		return comeBackAtOnce
	case CodeTimeStepped:
		return comeBackWithoutResume
	case CodeInvalidSubscription:
		return comeBackRetryResume
	case CodeServerFull, CodeServerDraining, CodeNoTime, CodeTooManyConnections:
		return comeBackElsewhere
	}
	// AUTH_TIMEOUT, AUTH_RATE_LIMITED, RATE_LIMITED, INTERNAL, and codes of a later version.
	return comeBackLater
}

// failure is the reason why a connection ended or could not be made.
type failure interface {
	error
	comeBack() comeBack
}

// ConnectError means that a connection could not be made.
type ConnectError struct {
	// Address is the address in Options that was tried.
	Address string
	// Err is the error for the IP address that was tried last.
	Err error
}

// errCutOff is why an attempt failed that took the time in which another address may work.
var errCutOff = errors.New("no connection within 1s, and other addresses are left to try")

// wasCutOff returns whether an attempt was cut off for the sake of other addresses.
func wasCutOff(err failure) bool {
	failed, ok := err.(*ConnectError)
	return ok && errors.Is(failed.Err, errCutOff)
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("cannot connect to %q: %v", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

func (e *ConnectError) comeBack() comeBack { return comeBackElsewhere }

// addressError is why Connect failed, and at which address.
type addressError struct {
	address string
	err     failure
}

// withAddress adds the address to a failure that does not name it.
func withAddress(address string, err failure) error {
	if _, names := err.(*ConnectError); names {
		return err
	}
	return &addressError{address, err}
}

func (e *addressError) Error() string { return fmt.Sprintf("%q: %v", e.address, e.err) }

func (e *addressError) Unwrap() error { return e.err }

// contextError means that the context of Connect ended before an edge accepted this client.
type contextError struct {
	// ended is the error of the context.
	ended error
	// last is why the last attempt failed, or nil.
	last error
}

func (e *contextError) Error() string {
	if e.last == nil {
		return "tickstorm: " + e.ended.Error()
	}
	return fmt.Sprintf("tickstorm: %v; the last attempt failed: %v", e.ended, e.last)
}

// Is returns whether the target is the error of the context.
func (e *contextError) Is(target error) bool { return errors.Is(e.ended, target) }

// Unwrap returns why the last attempt failed.
func (e *contextError) Unwrap() error { return e.last }

// CredentialsError means that the function or file for the password or token failed.
type CredentialsError struct{ Err error }

func (e *CredentialsError) Error() string { return "cannot get the credentials: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CredentialsError) Unwrap() error { return e.Err }

func (e *CredentialsError) comeBack() comeBack { return comeBackLater }

// ServerError is the ERROR by which an edge ended a connection.
type ServerError struct {
	Code Code
	// Message is for people, and may contain any characters.
	Message string
	// RetryAfter is the edge's hint for how long to wait; 0 means none.
	RetryAfter time.Duration
	// SupportedVersions is only set with UNSUPPORTED_VERSION.
	SupportedVersions []uint32
	// ConnectionID names the connection in the edge's log; it is empty if the edge gave no name.
	ConnectionID string
}

// Error quotes what the edge sent, so that it cannot control a terminal.
func (e *ServerError) Error() string {
	text := fmt.Sprintf("the edge ended the connection: %s: %+q", e.Code.shown(), e.Message)
	if e.ConnectionID != "" {
		text += fmt.Sprintf(" (connection %s)", e.ConnectionID)
	}
	return text
}

// shown returns a code that this version does not know in quotation marks.
func (c Code) shown() string {
	for _, r := range c {
		if (r < 'A' || r > 'Z') && r != '_' {
			return fmt.Sprintf("%+q", string(c))
		}
	}
	return string(c)
}

func (e *ServerError) comeBack() comeBack { return e.Code.comeBack() }

// ProtocolError means that an edge sent something that the protocol does not allow.
type ProtocolError struct {
	Reason string
	// isNewSchema says that the edge's ticks have a meaning which this client does not know.
	isNewSchema bool
}

func (e *ProtocolError) Error() string { return "the edge broke the protocol: " + e.Reason }

func (e *ProtocolError) comeBack() comeBack {
	if e.isNewSchema {
		return comeBackNo
	}
	return comeBackAtOnce
}

// ClosedError means that a connection ended without an ERROR.
type ClosedError struct {
	// Err is the error of the operating system, or io.EOF at an orderly end of file.
	Err error
}

func (e *ClosedError) Error() string {
	if errors.Is(e.Err, io.EOF) {
		return "the edge closed the connection"
	}
	return "the connection ended: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *ClosedError) Unwrap() error { return e.Err }

func (e *ClosedError) comeBack() comeBack { return comeBackAtOnce }

// TimeoutError means that an edge was left because it did not send something in time.
type TimeoutError struct {
	// Missing is what the edge did not send.
	Missing string
	// After is how long this client waited for it.
	After time.Duration
	// isAuth says that the answer to AUTH is missing.
	isAuth bool
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("the edge sent no %s for %v", e.Missing, e.After.Round(time.Millisecond))
}

// Timeout returns true.
func (e *TimeoutError) Timeout() bool { return true }

func (e *TimeoutError) comeBack() comeBack { return comeBackAtOnce }

// NoTimeError means that an edge was left because it did not know the time, although it did not
// say so by an ERROR.
type NoTimeError struct {
	// After is how long this client waited.
	After time.Duration
}

func (e *NoTimeError) Error() string {
	return fmt.Sprintf("the edge did not know the time for %v", e.After.Round(time.Millisecond))
}

func (e *NoTimeError) comeBack() comeBack { return comeBackElsewhere }

// isCode returns whether an edge ended a connection with this code.
func isCode(err failure, code Code) bool {
	refusal, ok := err.(*ServerError)
	return ok && refusal.Code == code
}

// retryAfter returns the edge's hint, or 0.
func retryAfter(err failure) time.Duration {
	if refusal, ok := err.(*ServerError); ok {
		return refusal.RetryAfter
	}
	return 0
}
