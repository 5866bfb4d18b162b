package suite

import (
	"fmt"

	"github.com/wasme-io/wasme-operator/internal/preflight/suite/schema"
)

// plan returns into how many chunks a test cuts a body of a length, and how long they
// are. The last has the rest; it is empty when the body is.
func plan(length int64, test *schema.Test) (chunks, size int64, err error) {
	switch plan := test.GetBodyChunkingPlan().(type) {
	case *schema.Test_NumChunks:
		chunks = int64(plan.NumChunks)
		switch {
		case chunks < 1:
			return 0, 0, fmt.Errorf("num_chunks is %d: use 1 or more", chunks)
		case chunks > length:
			return 0, 0, fmt.Errorf("the body has %d bytes, fewer than num_chunks, %d: use a longer body or fewer chunks", length, chunks)
		}
		return chunks, length / chunks, nil
	case *schema.Test_ChunkSize:
		size = plan.ChunkSize
		if size < 1 {
			return 0, 0, fmt.Errorf("chunk_size is %d: use 1 or more", size)
		}
		return max(1, (length-1)/size+1), size, nil
	}
	return 1, length, nil
}

// cut cuts a body into chunks of a size, the last of which has the rest.
func cut(body []byte, chunks, size int64) [][]byte {
	all := make([][]byte, chunks)
	for i := range all[1:] {
		all[i], body = body[:size], body[size:]
	}
	all[chunks-1] = body
	return all
}
