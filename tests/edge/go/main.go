// An independent gRPC client for the tests: every kind of call, each answer compared, one line for each.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

var both = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

func check(name string, right bool, found any) {
	if !right {
		fmt.Printf("%s: wrong: %v\n", name, found)
		os.Exit(1)
	}
	fmt.Printf("%s: right\n", name)
}

func main() {
	trust := insecure.NewCredentials()
	if len(os.Args) > 2 {
		read, err := credentials.NewClientTLSFromFile(os.Args[2], "localhost")
		check("roots", err == nil, err)
		trust = read
	}
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(trust),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	check("connection", err == nil, err)
	ctx := context.Background()
	for _, size := range []int{0, 1, 16384, 600_000, 20_000_000} {
		sent, answer := bytes.Repeat([]byte{7}, size), []byte{}
		err := connection.Invoke(ctx, "/t/Echo", &sent, &answer)
		check(fmt.Sprint("unary ", size), err == nil && bytes.Equal(sent, answer), err)
	}
	sent, answer := []byte("x"), []byte{}
	err = connection.Invoke(ctx, "/t/Nothing", &sent, &answer)
	check("unknown method", status.Code(err) == codes.Unimplemented, err)
	err = connection.Invoke(ctx, "/t/Refuse", &sent, &answer)
	check("status", status.Code(err) == codes.FailedPrecondition && status.Convert(err).Message() == "für später 100 %\n", err)
	soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	err = connection.Invoke(soon, "/t/Wait", &sent, &answer)
	check("deadline", status.Code(err) == codes.DeadlineExceeded, err)
	cancel()
	stream, err := connection.NewStream(ctx, both, "/t/Double")
	check("stream", err == nil, err)
	for i := 0; i < 1000; i++ {
		one := bytes.Repeat([]byte{byte(i)}, i)
		if err := stream.SendMsg(&one); err != nil {
			check("send", false, err)
		}
		if err := stream.RecvMsg(&answer); err != nil || len(answer) != 2*i {
			check("receive", false, err)
		}
	}
	stream.CloseSend()
	check("end of stream", stream.RecvMsg(&answer) == io.EOF, "more")
	early, cancel := context.WithCancel(ctx)
	stream, _ = connection.NewStream(early, both, "/t/Double")
	stream.SendMsg(&sent)
	stream.RecvMsg(&answer)
	cancel()
	check("cancel", status.Code(stream.RecvMsg(&answer)) == codes.Canceled, "not cancelled")
	err = connection.Invoke(ctx, "/t/Echo", &sent, &answer)
	check("afterwards", err == nil, err)
}
