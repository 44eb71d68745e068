// http serve PORT FILE, http ask PORT: a server and a client whose system calls are their own.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(address, file string) {
	http.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	http.HandleFunc("/small", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.RawQuery) })
	check(http.ListenAndServe(address, nil))
}

func get(url string) []byte {
	response, err := http.Get(url)
	check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != 200 {
		check(fmt.Errorf("%s: %s", url, response.Status))
	}
	return body
}

// One after the other on a connection that is kept, and four at once.
func ask(address string) {
	url := "http://" + address
	small := get(url + "/small")
	for i := 0; i < 300; i++ {
		if !bytes.Equal(get(url+"/small"), small) {
			check(fmt.Errorf("another answer"))
		}
	}
	var sums [4]string
	var all sync.WaitGroup
	for i := range sums {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			sums[i] = fmt.Sprintf("%x", sha256.Sum256(get(url+"/big")))
		}(i)
	}
	all.Wait()
	fmt.Println(len(small), sums)
}

func main() {
	address := "127.0.0.1:" + os.Args[2]
	if os.Args[1] == "serve" {
		serve(address, os.Args[3])
	} else {
		ask(address)
	}
}
