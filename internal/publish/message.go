package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// messageRequest says which message: one of the two.
type messageRequest struct {
	Sequence      uint64 `json:"seq,omitempty"`
	LastBySubject string `json:"last_by_subj,omitempty"`
}

// ReadValue reads a key of a bucket from its leader, which direct reads do not ask,
// and gives its revision; 0 when there is no value.
func ReadValue(ctx context.Context, nc *nats.Conn, bucket, key string) (value []byte, revision uint64, err error) {
	msg, err := getMessage(ctx, nc, "KV_"+bucket, messageRequest{LastBySubject: "$KV." + bucket + "." + key})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read key %s of bucket %s: %w", key, bucket, classify(err))
	}
	if msg.Header.Get("KV-Operation") != "" { // deleted
		return nil, msg.Sequence, nil
	}
	return msg.Data, msg.Sequence, nil
}

// ReadMessage reads the message that a stream has at a sequence from its leader;
// jetstream.ErrMsgNotFound when it has none there.
func ReadMessage(ctx context.Context, nc *nats.Conn, stream string, sequence uint64) (*jetstream.RawStreamMsg, error) {
	msg, err := getMessage(ctx, nc, stream, messageRequest{Sequence: sequence})
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		err = classify(err)
	}
	if err != nil {
		return nil, fmt.Errorf("read message %d of stream %s: %w", sequence, stream, err)
	}
	return msg, nil
}

// getMessage asks a stream's leader for one message.
func (s *Stream) getMessage(ctx context.Context, stream string, which messageRequest) (*jetstream.RawStreamMsg, error) {
	return getMessage(ctx, s.nc, stream, which)
}

func getMessage(ctx context.Context, nc *nats.Conn, stream string, which messageRequest) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request, err := json.Marshal(which)
	if err != nil {
		return nil, err
	}
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return nil, err
	}
	var response struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string `json:"subject"`
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &response); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	if response.Error != nil {
		if response.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, jetstream.ErrMsgNotFound
		}
		return nil, response.Error
	}
	if response.Message == nil {
		return nil, errors.New("read message: the server's answer holds none")
	}
	m := response.Message
	msg := &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: m.Sequence, Data: m.Data, Header: nats.Header{}}
	if len(m.Header) > 0 {
		if msg.Header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return nil, fmt.Errorf("read message %d: %w", m.Sequence, err)
		}
	}
	return msg, nil
}
