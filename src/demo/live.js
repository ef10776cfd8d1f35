
"use strict";
// A stream that has ended is opened again after this time in milliseconds.
const RETRY = 1000;

// Keeps one clock running. `open` opens a stream and calls `tick` for each message and `end` one
// time.
function keep(id, open) {
  const clock = document.getElementById(id);
  const time = clock.querySelector("time");
  const state = clock.querySelector("p");
  const show = (name, text) => {
    if (clock.className !== `clock ${name}`) {
      clock.className = `clock ${name}`;
      state.textContent = text;
    }
  };
  const start = () => open({
    tick: (date) => {
      time.textContent = new Date(date).toLocaleTimeString();
      show("running", "Running");
    },
    end: (reason) => {
      show("stopped", `Stopped${reason}. Tries again once a second.`);
      setTimeout(start, RETRY);
    },
  });
  start();
}

keep("socket", ({ tick, end }) => {
  // Older browsers accept only an absolute URL.
  const socket = new WebSocket(new URL("/live/socket", location.href.replace(/^http/, "ws")));
  socket.onmessage = (message) => tick(message.data);
  socket.onclose = (close) => end(` with close code ${close.code}`);
});

keep("events", ({ tick, end }) => {
  const events = new EventSource("/live/events");
  events.onmessage = (message) => tick(message.data);
  // The browser itself does not try again after an answer such as 401.
  events.onerror = () => {
    events.close();
    end("");
  };
});
